"""What holds for all tests: one torch thread each, those that need a CUDA GPU or an extra are skipped without
one, and faults are counted.

A test marked `faults("name")` is a line of the table that `pytest --faults` prints; with `full=True` it takes
too long for every day, and runs with `--faults` only.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.faults.table import Tally, add_up, as_json, lines

torch.set_num_threads(1)

TALLY = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(
        "--faults",
        action="store_true",
        help="run the tests of faults, all of them and no others; print a table",
    )
    group.addoption(
        "--minutes", type=float, default=0, metavar="N", help="for how long random sequences of faults go on"
    )
    group.addoption("--seed", type=int, default=0, metavar="N", help="of the first of these sequences")
    group.addoption("--faults-json", type=Path, metavar="FILE", help="write that table as JSON, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen, left_out = [], []
    for item in items:
        fault = item.get_closest_marker("faults")
        if fault:
            item.stash[TALLY] = Tally(*fault.args)
            if config.getoption("--faults"):  # several processes, as make test has, could not send it
                item.user_properties.append(("tally", item.stash[TALLY]))
        only_there = fault is not None and fault.kwargs.get("full", False)
        wanted = fault is not None if config.getoption("--faults") else not only_there
        (chosen if wanted else left_out).append(item)
    items[:] = chosen
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if extras := item.get_closest_marker("extras"):
            missing = [name for name in extras.args if importlib.util.find_spec(name) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}: make test-extras"))
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU, and torch finds none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts the tries of a test that makes several."""
    return request.node.stash[TALLY]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--faults"):
        return
    reports = [
        (report, outcome == "passed")
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, [])
    ]
    properties = [(dict(report.user_properties), passed) for report, passed in reports]
    rows = add_up((given["tally"], passed) for given, passed in properties if "tally" in given)
    if not rows:
        return
    terminalreporter.section("faults")
    for line in lines(rows):
        terminalreporter.write_line(line)
    if path := config.getoption("--faults-json"):
        path.write_text(json.dumps(as_json(rows), indent=1) + "\n", encoding="utf-8")
