"""Curves are read as they were logged and averaged over every run."""

import json
from pathlib import Path

import numpy as np
import pytest

from studies import plots
from studies.plots import Curve, band, mean_interval, plot, read_curve


def write_run(folder: Path, task: str, backbone: str, values: list[float | None]) -> Path:
    """Write a run folder with one evaluation every 10 steps."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"task: {task}\nbackbone: {backbone}\nagent: {{horizon: 3}}\n")
    with (folder / "metrics.jsonl").open("w") as file:
        for n, value in enumerate(values, 1):
            file.write(json.dumps({"step": 10 * n, "train/loss": 0.1}) + "\n")
            entry = {"step": 10 * n, "eval/return_mean": value, "time/seconds": float(n)}
            file.write(json.dumps(entry) + "\n")
    return folder


def test_a_curve_is_what_was_logged(tmp_path: Path) -> None:
    """Other lines, nulls and a last line that is being written are left out; a broken line is an error."""
    folder = write_run(tmp_path / "run", "t", "s4wm", [0.5, None, 1.5])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "eval/return_mean": 9')
    curve = read_curve(folder)
    assert curve.steps.tolist() == [10, 30]
    assert curve.seconds.tolist() == [1, 3]
    assert curve.values.tolist() == [0.5, 1.5]
    assert read_curve(folder, "train/loss").steps.tolist() == [10, 20, 30]
    assert np.isnan(read_curve(folder, "train/loss").seconds).all()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="line 7 is not JSON"):
        read_curve(folder)
    assert read_curve(tmp_path / "absent").steps.size == 0


def test_the_interval_is_the_percentile_bootstrap() -> None:
    """Mean and interval agree with scipy's, column by column."""
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(size=(6, 3))
    mean, low, high = mean_interval(values)
    reference = stats.bootstrap((values,), np.mean, axis=0, n_resamples=20_000, method="percentile")
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(low, reference.confidence_interval.low, atol=0.05)
    np.testing.assert_allclose(high, reference.confidence_interval.high, atol=0.05)


def test_equal_runs_and_one_run_have_no_width() -> None:
    """Nothing to resample gives the value itself, without a rounding error around it."""
    for values in (np.full((3, 2), 0.1), np.array([[0.1, 0.1]])):
        for part in mean_interval(values):
            np.testing.assert_allclose(part, 0.1, rtol=1e-12)
    assert mean_interval(np.array([0.1]))[0] == 0.1


def test_runs_are_averaged_where_all_have_values() -> None:
    """Against steps the average ends with the shortest run; against time a finished run keeps its value."""
    short = Curve(np.array([10, 20]), np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    long = Curve(np.array([10, 30]), np.array([2.0, 6.0]), np.array([1.0, 3.0]))
    steps = band([short, long], "steps")
    assert steps.x.tolist() == [10, 20] and steps.mean.tolist() == [0.5, 1.5]
    done = Curve(np.array([10, 30]), np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    seconds = band([done, long], "seconds")
    assert seconds.x.tolist() == [2, 6] and seconds.mean.tolist() == [1, 2]
    assert band([short, long], "seconds").x.tolist() == [2], "an unfinished run has no final value"
    one, other = (Curve(np.array([s]), np.array([1.0]), np.array([v])) for s, v in ((100, 1.0), (103, 2.0)))
    assert band([one, other], "steps").mean.tolist() == [1.5]


def test_any_set_of_runs_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and folders of runs are grouped by their saved task and backbone; one without values is named."""
    for seed in range(2):
        write_run(tmp_path / "a" / f"seed{seed}", "one", "s4wm", [0.1, 0.2 + seed])
        write_run(tmp_path / "b" / f"seed{seed}", "one", "rssm", [0.1, 0.2])
    lone = write_run(tmp_path / "c", "two", "rssm", [1.0])
    empty = write_run(tmp_path / "d", "two", "rssm", [])
    drawn: dict = {}
    original = plots.draw

    def remember(groups: dict, *args: object, **options: object) -> Path:
        drawn.update(groups)
        return original(groups, *args, **options)

    monkeypatch.setattr(plots, "draw", remember)
    said: list[str] = []
    out = plot(
        [tmp_path / "a", tmp_path / "b", lone, lone, empty], tmp_path / "new" / "x.png", echo=said.append
    )
    assert out.read_bytes().startswith(b"\x89PNG")
    counts = {(task, label): len(runs) for task, group in drawn.items() for label, runs in group.items()}
    assert counts == {("one", "s4wm"): 2, ("one", "rssm"): 2, ("two", "rssm"): 1}
    assert said == [f"left out {empty}: no eval/return_mean in its metrics yet"]
    assert plot([lone], tmp_path / "x.svg").read_text().lstrip().startswith("<?xml")


def test_a_recorded_comparison_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its file alone, beside runs; a backbone of a task that several have is a line of each."""
    curve = Curve(np.array([10, 20]), np.array([1.0, np.nan]), np.array([0.25, 0.5]))
    report = {"task": "t", "optimum": 1.0, "runs": {"s4wm": [plots.as_json(curve)] * 2}}
    for name in ("first", "second"):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    others = [write_run(tmp_path / name, "t", name, [0.1]) for name in ("rssm", "s4wm")]
    drawn: list = []
    monkeypatch.setattr(plots, "draw", lambda *given: drawn.append(given) or Path("x.png"))
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    plot([first, others[0]], tmp_path / "x.png")
    plot([first, second, *others], tmp_path / "x.png")
    (alone, _, optima, _), (together, *_) = drawn
    assert {label: len(runs) for label, runs in alone["t"].items()} == {"s4wm": 2, "rssm": 1}
    assert optima == {"t": 1.0}
    counts = {label: len(runs) for label, runs in together["t"].items()}
    assert counts == {f"s4wm, {first}": 2, f"s4wm, {second}": 2, "s4wm": 1, "rssm": 1}
    for drawn_again, logged in zip(alone["t"]["s4wm"][1], curve, strict=True):
        np.testing.assert_array_equal(drawn_again, logged)


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    """Errors tell the folder and what was expected in it."""
    with pytest.raises(ValueError, match=r"no run in .*expected metrics\.jsonl"):
        plot([tmp_path], tmp_path / "x.png")
    run = write_run(tmp_path / "run", "t", "s4wm", [])
    with pytest.raises(ValueError, match="none of 1 runs has logged eval/return_mean"):
        plot([run], tmp_path / "x.png", echo=lambda text: None)
    (run / "metrics.jsonl").write_text('{"step": 1, "eval/return_mean": 2}\n')
    (run / "config.yaml").write_text("task: t\n")
    with pytest.raises(ValueError, match="does not name its backbone"):
        plot([run], tmp_path / "x.png")
    (run / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"no .*config\.yaml"):
        plot([run], tmp_path / "x.png")
    (run / "metrics.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is neither a folder of runs nor a compare\.json"):
        plot([run / "metrics.jsonl"], tmp_path / "x.png")
    (run / "old.json").write_text('{"task": "t", "results": {}}')
    with pytest.raises(ValueError, match=r"old\.json is not a compare\.json with the curves of single runs"):
        plot([run / "old.json"], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"holds eval/return_mean only, not train/loss"):
        plot([run / "old.json"], tmp_path / "x.png", "train/loss")


def test_costs_are_drawn_against_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is a line in each panel; without memory counts there is one panel."""
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, out: drawn.append(figure) or Path(out))
    rows = [
        {"name": name, "length": length, "median": 2.0 * length / 1000, "peak_memory": 3e6 * length}
        for length in (64, 256)
        for name in ("a", "b")
    ]
    result = {"what": "layers", "device": "cpu", "threads": 1, "rows": rows}
    plots.draw_costs(result, tmp_path / "x.png")
    time, memory = drawn[0].axes
    assert [line.get_label() for line in time.lines] == ["a", "b"]
    assert time.lines[0].get_xydata().tolist() == [[64, 128], [256, 512]]
    assert memory.lines[1].get_xydata().tolist() == [[64, 192], [256, 768]]
    plots.draw_costs(result | {"rows": [row | {"peak_memory": None} for row in rows]}, tmp_path / "x.png")
    assert len(drawn[1].axes) == 1
    monkeypatch.undo()
    assert plots.draw_costs(result, tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
