"""Small trained runs and commands, for all tests of studies."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import run

Call = Callable[..., dict]
Refused = Callable[..., str]
Train = Callable[[str, str], Path]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command with `--json`; the JSON object on the last line."""

    def call(*words: str | Path) -> dict:
        assert run.main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that ends with exit code 2; what it says."""

    def refused(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as stopped:
            run.main([*map(str, words)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return refused


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """(backbone, task) -> folder of a run, trained once."""

    @functools.cache
    def train(backbone: str, task: str) -> Path:
        folder = tmp_path_factory.mktemp(backbone)
        words = ["--backbone", backbone, "--task", task, "--configs", "debug", "--steps", "100"]
        words += ["--device", "cpu", "--eval.every", "0", "--eval.max_steps", "20", "--log.pictures", "0"]
        assert run.main([*words, "--logdir", str(folder)]) == 0
        return folder

    return train
