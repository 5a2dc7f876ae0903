"""Runs as processes: so many at once, stopped with the cause of a failure or by a signal, having saved."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from studies.comparison import Comparison
from studies.processes import Run, run_all

ROOT, FAKE = Path(__file__).parents[2], Path(__file__).with_name("fake_train.py")


def runs(folder: Path, mode: str, seeds: int, steps: int = 100) -> list[Run]:
    """Runs that take no time."""
    return Comparison("t", ["s4wm"], seeds, steps, folder, program=(sys.executable, str(FAKE), mode)).runs


def test_at_most_so_many_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all(runs(tmp_path, "slow", 4), 2, tmp_path / "logs")
    spans = []
    for path in tmp_path.glob("s4wm/seed*/starts"):
        (_, begin), (_, end) = (line.split() for line in path.read_text().splitlines())
        spans.append((float(begin), float(end)))
    assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) == 2
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "started s4wm seed 0 (0 of 4 runs done)"
    assert said[-1].endswith("eval/return_mean 0.2 (4 of 4 runs done)")
    run_all(runs(tmp_path, "early", 4), 2, tmp_path / "logs")
    assert capsys.readouterr().out.splitlines()[-1] == "already finished: s4wm seed 3 (4 of 4 runs done)"


def test_a_failing_run_stops_the_others(tmp_path: Path) -> None:
    """The error shows command and stderr; the run beside it was told to save."""
    with pytest.raises(RuntimeError, match="s4wm seed 1 failed with exit code 3") as caught:
        run_all(runs(tmp_path, "fail", 2), 2, tmp_path / "logs")
    assert "fake_train.py fail train --json" in str(caught.value)
    assert "the model exploded" in str(caught.value)
    assert (tmp_path / "s4wm" / "seed0" / "saved").exists()
    run_all(runs(tmp_path, "normal", 2), 1, tmp_path / "logs")


def test_a_run_without_its_last_evaluation_is_an_error(tmp_path: Path) -> None:
    """A run that ends well but did not get there is not counted as if it had."""
    with pytest.raises(RuntimeError, match=r"without an evaluation at step 500: .* is of step 400"):
        run_all(runs(tmp_path, "short", 1, 500), 1, tmp_path / "logs")


def test_finished_is_what_its_result_says(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "normal", 1)
    assert not run.finished()
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text('{"step": 100, "eval/return_mean": 1.0}\n')
    assert not run.finished(), "it was killed before it saved what it had evaluated"
    (run.folder / "result.json").write_text(json.dumps({"steps": 100}))
    assert run.finished()


def test_a_failure_shows_what_it_was_and_what_went_before_stays(tmp_path: Path) -> None:
    """The first line of a refusal stands above the command; logs of earlier tries are kept."""
    (run,) = runs(tmp_path, "fail", 1)
    words = [sys.executable, "-c", "import sys; print('run.py: no such task', file=sys.stderr); sys.exit(2)"]
    refused = replace(run, command=words)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="exit code 2.*\nrun.py: no such task\ncommand: ") as caught:
            run_all([refused], 1, tmp_path / "logs")
        assert str(caught.value).count("no such task") == 3  # above, in the command, and in the log's end
    assert (tmp_path / "logs" / "s4wm-seed0.stderr").read_text().count("no such task") == 2


@pytest.mark.faults("comparison killed, or begun twice")
@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_end_of_a_comparison_ends_its_runs(number: int, ended: int, tmp_path: Path) -> None:
    """They save, also where it could not tell them."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "import test_processes as test\n"
        "test.run_all(test.runs(Path(sys.argv[3]), 'hang', 1), 1, Path(sys.argv[3]) / 'logs')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(FAKE.parent), str(tmp_path)])
    folder = tmp_path / "s4wm" / "seed0"

    def there(name: str) -> bool:
        """Each has its own time: a busy machine takes more than a minute to begin."""
        deadline = time.monotonic() + 120
        while not (found := (folder / name).exists()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    try:
        assert there("ready")
        process.send_signal(number)
        assert process.wait(30) == ended
    finally:
        process.kill()
    assert there("saved")
