"""The table of faults counts what the tests did."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.processes import ROOT
from tests.faults.table import Tally, add_up, lines


def test_tries_of_one_fault_are_added_up() -> None:
    several = Tally("b")
    for lost in (3, 7, None):
        several.attempt()
        several.survive(lost)
    several.attempt()
    rows = add_up([(several, False), (Tally("b"), True), (Tally("a"), True), (Tally("a"), False)])
    assert rows == [Tally("a", tried=2, survived=1), Tally("b", tried=5, survived=4, lost=7)]
    head, first, second = lines(rows)
    assert head.split() == ["fault", "tried", "survived", "lost", "steps", "(max)"]
    assert first.split() == ["a", "2", "1", "-"] and second.split() == ["b", "5", "4", "7"]


def test_pytest_prints_and_writes_it(tmp_path: Path) -> None:
    """With --faults the tests of faults run and no others, with their own lines."""
    path = tmp_path / "table.json"
    words = ["-q", "--faults", "--faults-json", str(path), "tests/agent/run/test_logger.py"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert json.loads(path.read_text()) == [{"fault": "disk full", "tried": 1, "survived": 1, "lost": None}]
    assert "1 passed, " in done.stdout and " deselected" in done.stdout
    assert any(line.split() == ["disk", "full", "1", "1", "-"] for line in done.stdout.splitlines())
