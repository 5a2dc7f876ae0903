"""Curves are read as they were logged and averaged over every run."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from studies.curves import Curve, as_json, band, higher, interval, mean_interval, read_curve


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


def test_a_curve_is_what_was_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other lines and nulls are left out; so is a cut line, wherever it is, with its number."""
    folder = write_run(tmp_path / "run", "t", "s4wm", [0.5, None, 1.5])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "eval/return_mean": 2.5}\n{"step": 40, "eval/return_mean": 9\n')
        file.write('{"step": 40, "eval/return_mean": "9"}\n{"st')
    curve = read_curve(folder)
    assert curve.steps.tolist() == [10, 30]
    assert curve.values.tolist() == [0.5, 2.5]
    assert as_json(curve)["seconds"] == [1, None]
    cut, last = capsys.readouterr().err.splitlines()
    assert cut.startswith(f"left out {folder / 'metrics.jsonl'}, line 8, column ") and "line 10, " in last
    assert read_curve(tmp_path / "absent").steps.size == 0


def test_the_interval_is_the_percentile_bootstrap() -> None:
    """Mean and interval agree with scipy's, column by column."""
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


def test_the_probability_of_ending_higher() -> None:
    """Over all pairs, equal ones counting half; one run against one has no interval."""
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0])
    found, low, high = interval((ours, theirs), higher)
    assert found == pytest.approx((1 + 2 + 2 - 0.5) / 6) and low < found < high
    assert interval((theirs, ours), higher)[0] == pytest.approx(1 - found)
    assert interval((ours[:1], theirs[1:]), higher) == (0, 0, 0)
    single, low, high = interval((ours[1:2], theirs), higher)
    assert single == 0.75 and low <= 0.75 <= high and low < high


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
