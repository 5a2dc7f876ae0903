"""A loss that is not finite: the run ends, says which, and what it leaves fails again in another process."""

import json
from pathlib import Path

import pytest

from tests.faults.processes import RUN, WORDS, Start, finish


@pytest.mark.faults("parameters, loss or gradient not finite", full=True)
@pytest.mark.parametrize("optimiser", ["model", "critic"])
def test_the_update_that_fails_fails_again(optimiser: str, tmp_path: Path, start: Start) -> None:
    words = [RUN, *WORDS, "--steps", "2000", "--logdir", str(tmp_path), "--optimiser.warmup", "0"]
    code, said = finish(start(*words, f"--optimiser.{optimiser}_lr", "1e30"))
    assert code == 1 and "FloatingPointError: " in said and "is not finite" in said, said
    assert f"run.py reproduce {tmp_path}" in said
    process = start(RUN, "reproduce", "--logdir", str(tmp_path), "--json")
    out, said = process.communicate()
    assert process.returncode == 0, said
    found = json.loads(out.splitlines()[-1])
    assert (
        found["message"] is not None
        and found["recorded"].split(" since ")[1] == found["message"].split(" since ")[1]
    )
    assert found["batch"] == [], "the batch was good"
