"""Any set of runs and of recorded comparisons is drawn; what cannot be is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from studies import plots
from studies.curves import Curve, as_json
from tests.studies.conftest import Call, Refused
from tests.studies.test_curves import write_run


def test_any_set_of_runs_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs and folders of runs are grouped by their saved task and backbone; one without values is named."""
    for seed in range(2):
        write_run(tmp_path / "a" / f"seed{seed}", "one", "s4wm", [0.1, 0.2 + seed])
        write_run(tmp_path / "b" / f"seed{seed}", "one", "rssm", [0.1, 0.2])
    write_run(tmp_path / "a" / "s4wm,a=1%2F2,b=3" / "seed0", "one", "s4wm", [0.3])  # of a grid
    lone = write_run(tmp_path / "c", "two", "rssm", [1.0])
    empty = write_run(tmp_path / "d", "two", "rssm", [])
    (tmp_path / "b" / "seed0" / "aside-1").mkdir()  # of a run there that began anew
    (tmp_path / "b" / "seed0" / "aside-1" / "metrics.jsonl").write_text("")
    groups, optima = plots.gather([tmp_path / "a", tmp_path / "b", lone, lone, empty])
    counts = {(task, label): len(runs) for task, group in groups.items() for label, runs in group.items()}
    assert counts == {
        ("one", "s4wm (s5)"): 2,
        ("one", "s4wm (s5) [a=1/2,b=3]"): 1,
        ("one", "rssm"): 2,
        ("two", "rssm"): 1,
    }
    assert f"left out {empty}: no eval/return_mean in its metrics yet" in capsys.readouterr().err
    assert not optima


def test_runs_of_other_options_are_other_curves(tmp_path: Path) -> None:
    """Labelled by what differs and changes what is learned, or by a folder where that is much."""
    for number in range(6):
        run = write_run(tmp_path / str(number), "t", "s4wm", [0.1])
        with (run / "config.yaml").open("a") as file:
            file.write(f"seed: {number}\nsteps: {number}\nkl: {{dyn: {0.5 if number < 2 else 1.0}}}\n")
            if number > 2:
                file.write(f"eval: {{every: {number}}}\nof_late: 1\n")
            file.write(f"many: {{{', '.join(f'{key}: {int(number == 5)}' for key in 'abcd')}}}\n")

    def counts(*numbers: int) -> dict[str, int]:
        groups, _ = plots.gather([tmp_path / str(number) for number in numbers])
        return {label: len(runs) for label, runs in groups["t"].items()}

    assert counts(0, 1) == {"s4wm (s5)": 2}
    assert counts(0, 1, 2, 3, 4) == {"s4wm (s5) [kl.dyn=0.5]": 2, "s4wm (s5) [kl.dyn=1.0]": 3}
    assert counts(2, 3, 5) == {f"s4wm (s5) [{tmp_path / '2'}]": 2, f"s4wm (s5) [{tmp_path / '5'}]": 1}


def test_as_a_command(tmp_path: Path, call: Call) -> None:
    run = write_run(tmp_path / "run", "t", "s4wm", [0.5, 1.5])
    png, svg = tmp_path / "new" / "x.png", tmp_path / "x.svg"
    assert call("plot", run, "--out", png) == {"out": str(png)}
    assert png.read_bytes().startswith(b"\x89PNG")
    call("plot", run, "--out", svg)
    assert svg.read_text().lstrip().startswith("<?xml")


def test_another_number_of_evaluations(tmp_path: Path, call: Call) -> None:
    run = write_run(tmp_path / "run", "t", "s4wm", [0.5, 1.5])
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace("eval/return_mean", "eval/gen_error"))
    (curve,) = plots.gather([run], "eval/gen_error")[0]["t"]["s4wm (s5)"]
    assert curve.values.tolist() == [0.5, 1.5]
    assert call("plot", run, "--metric", "eval/gen_error", "--out", tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    assert "<!-- eval/gen_error -->" in drawn and "<!-- steps -->" in drawn
    with pytest.raises(ValueError, match="none of 1 runs has logged eval/return_mean"):
        plots.gather([run])
    (tmp_path / "a.json").touch()
    with pytest.raises(ValueError, match="a.json holds eval/return_mean alone"):
        plots.gather([tmp_path / "a.json"], "eval/gen_error")


def test_a_recorded_comparison_is_drawn_again(tmp_path: Path) -> None:
    """From its file alone, beside runs; a backbone of a task that several have is a line of each."""
    curve = Curve(np.array([10, 20]), np.array([1.0, np.nan]), np.array([0.25, 0.5]))
    report = {"task": "t", "optimum": 1.0, "runs": {"s4wm": [as_json(curve)] * 2}}
    for name in ("first", "second"):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    others = [write_run(tmp_path / name, "t", name, [0.1]) for name in ("rssm", "s4wm")]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    alone, optima = plots.gather([first, others[0]])
    assert {label: len(runs) for label, runs in alone["t"].items()} == {"s4wm (s5)": 2, "rssm": 1}
    assert optima == {"t": 1.0}
    for drawn_again, logged in zip(alone["t"]["s4wm (s5)"][1], curve, strict=True):
        np.testing.assert_array_equal(drawn_again, logged)
    together, _ = plots.gather([first, second, *others])
    counts = {label: len(runs) for label, runs in together["t"].items()}
    assert counts == {f"s4wm (s5), {first}": 2, f"s4wm (s5), {second}": 2, "s4wm (s5)": 1, "rssm": 1}
    assert plots.draw(together, tmp_path / "x.png", optima).stat().st_size > 10_000


def test_a_picture_replaces_another_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = plots.save(Figure(figsize=(1, 1)), tmp_path / "x.png")
    before = out.read_bytes()

    def half(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="writing a picture failed"):
        plots.save(Figure(figsize=(2, 2)), out)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_drawn_is_named(tmp_path: Path, refused: Refused) -> None:
    """Errors tell the folder and what was expected in it."""

    def said(path: Path) -> str:
        return refused("plot", path, "--out", tmp_path / "x.png")

    assert f"no {tmp_path / 'none'}: expected the folder of a run" in said(tmp_path / "none")
    assert "expected metrics.jsonl" in said(tmp_path)
    run = write_run(tmp_path / "run", "t", "s4wm", [])
    assert "none of 1 runs has logged eval/return_mean" in said(run)
    (run / "metrics.jsonl").write_text('{"step": 1, "eval/return_mean": 2}\n')
    (run / "config.yaml").write_text("task: t\n")
    assert "does not name its backbone" in said(run)
    (run / "config.yaml").unlink()
    assert "config.yaml: the configuration saved with a run" in said(run)
    (run / "metrics.jsonl").write_text("{")
    assert "metrics.jsonl, line 1, column 2: no JSON" in said(run / "metrics.jsonl")
    (run / "old.json").write_text('{"task": "t", "results": {}}')
    assert "old.json is not a compare.json with the curves of single runs" in said(run / "old.json")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.faults("output that cannot be written")
@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("folder", "is there and no file"),
        ("curves.xyz", "must end in one of"),
        ("/proc/curves.png", "cannot be written"),
        ("file/curves.png", "cannot be written"),
        (f"{'a' * 300}.png", "a name of more than 255 bytes"),
    ],
)
def test_an_output_that_cannot_be_written_is_said_before_the_work(
    out: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    assert said in refused("plot", "folder", "--out", out)
    assert said in refused("bench", "--what", "imagination", "--configs", "debug", "--picture", out)


def test_many_lines_have_a_colour_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than matplotlib's ten, as a grid may have."""
    used = []
    monkeypatch.setattr(plots, "_draw_runs", lambda *given: used.append(given[-1]))
    curve = Curve(np.array([1]), np.array([1.0]), np.array([0.0]))
    plots.draw({"t": {str(number): [curve] for number in range(12)}}, tmp_path / "a.png", {"t": 1.0})
    assert len(set(used)) == 12
