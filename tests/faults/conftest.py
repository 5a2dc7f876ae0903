"""Processes that are gone when the test is over."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.processes import Start, launch


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process; whatever is left of it at the end is killed."""
    started: list[subprocess.Popen] = []

    def start(*words: str, **options: Any) -> subprocess.Popen:
        started.append(launch(*words, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
