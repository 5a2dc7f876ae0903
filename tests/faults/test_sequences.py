"""Random sequences of faults against one run, for as long as is given: make faults ARGS="--minutes 30".

After every fault the run is gone on with, and judged by five promises: it ends with the code and words that
belong to the fault; the next start goes on, and loses at most what came after the checkpoint that is whole;
what is said names the file; no half-written file is left; and in the end, left alone, it finishes with a log
whose steps never go back.
"""

import json
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import (
    ENDLESS,
    ON_DISK,
    RUN,
    WORDS,
    Start,
    checkpoints,
    chunks,
    finish,
    logged_steps,
    metrics,
    newest_step,
    resumed_step,
    wait_for,
)
from tests.faults.table import Tally

EVERY = 40  # steps from one checkpoint to the next
OPTIONS = [*WORDS, *ON_DISK, "--checkpoint.every", str(EVERY)]
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGKILL: -9}


class Sequence:
    """One run, to which one fault after another is done."""

    def __init__(self, folder: Path, start: Start, seed: int) -> None:
        self.folder, self.start, self.random = folder, start, random.Random(seed)
        self.least = 0  # the step that the next start goes on from, or a later one
        self.moves = 0

    def session(self, steps: int, **options: Any) -> tuple[subprocess.Popen, Callable[[], tuple[int, str]]]:
        """Start the run again; and what waits for its end."""
        process = self.start(RUN, *OPTIONS, "--logdir", str(self.folder), "--steps", str(steps), **options)
        return process, lambda: finish(process)

    def is_gone_on_with(self, said: str) -> None:
        """The promise that every start has to keep."""
        resumed = resumed_step(said)
        assert resumed >= self.least, f"went on from {resumed}, not {self.least}:\n{said}"

    def by_signal(self) -> None:
        """It saves and says how to go on; after a kill it is where its last checkpoint was."""
        number = self.random.choice(list(SIGNALS))
        process, end = self.session(ENDLESS)
        target = logged_steps(self.folder) + self.random.randint(10, 3 * EVERY)
        wait_for(lambda: logged_steps(self.folder) > target, process)
        time.sleep(self.random.random() / 5)
        process.send_signal(number)
        code, said = end()
        assert code == SIGNALS[number], said
        self.is_gone_on_with(said)
        assert "Traceback" not in said
        if number != signal.SIGKILL:
            assert f"stopped by {number.name} and saved in" in said
            assert newest_step(self.folder) == logged_steps(self.folder)
        self.least = newest_step(self.folder)

    def by_damage(self) -> None:
        """A file of the newest checkpoint is cut, or a bit of it flipped: the one before it serves."""
        folders = checkpoints(self.folder)
        if len(folders) < 2:
            return
        path = self.random.choice(sorted(folders[-1].iterdir()))
        content = bytearray(path.read_bytes())
        if self.random.random() < 0.5:
            content = content[: self.random.randrange(len(content))]
        else:
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        path.write_bytes(content)
        self.least = int(folders[-2].name)
        self.briefly(f"skipped checkpoint {folders[-1]}")

    def by_a_lost_chunk(self) -> None:
        """Its steps are gone, which is said by name; the others serve."""
        there = chunks(self.folder)
        if not there:
            return
        lost = self.random.choice(there)
        lost.unlink()
        self.briefly()

    def by_a_cut_log(self) -> None:
        """The last line is half there, as after a power cut."""
        path = self.folder / "metrics.jsonl"
        if path.exists() and path.stat().st_size > 10:
            path.write_bytes(path.read_bytes()[: -self.random.randint(1, 9)])
        self.briefly()

    def by_a_move(self) -> None:
        """The folder has another name, and is the same run."""
        self.moves += 1
        self.folder = self.folder.rename(self.folder.with_name(f"moved{self.moves}"))
        self.briefly()

    def by_a_full_disk(self) -> None:
        """A checkpoint does not fit: an error that names a file, and those before are whole."""
        sizes = [path.stat().st_size for folder in checkpoints(self.folder) for path in folder.iterdir()]
        if not sizes:
            return
        limit = max(sizes) // 2
        _, end = self.session(
            ENDLESS, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        )
        code, said = end()
        assert code != 0 and str(self.folder) in said and "failed" in said, said
        self.is_gone_on_with(said)
        self.least = newest_step(self.folder)

    def briefly(self, *said_too: str) -> None:
        """Go on a little, and stop."""
        process, end = self.session(ENDLESS)
        target = max(self.least, logged_steps(self.folder)) + self.random.randint(5, EVERY)
        wait_for(lambda: logged_steps(self.folder) > target, process)
        process.send_signal(signal.SIGTERM)
        code, said = end()
        assert code == 143, said
        self.is_gone_on_with(said)
        for part in said_too:
            assert part in said, said
        self.least = newest_step(self.folder)

    def to_the_end(self) -> None:
        """Left alone it finishes, and its log is whole."""
        _, end = self.session(self.least + EVERY)
        code, said = end()
        assert code == 0, said
        self.is_gone_on_with(said)
        assert json.loads((self.folder / "result.json").read_text())["steps"] >= self.least + EVERY
        steps = [line["step"] for line in metrics(self.folder)]
        assert steps == sorted(steps) and steps
        assert not [path for path in self.folder.rglob(".*") if path.name != ".lock"]


@pytest.mark.timeout(0)
@pytest.mark.faults("random sequence of kills, signals, cuts, moves, full disks", full=True)
def test_random_sequences(tmp_path: Path, start: Start, tally: Tally, request: pytest.FixtureRequest) -> None:
    """Eight faults a sequence; one of them, or as many as the minutes hold."""
    until = time.monotonic() + 60 * request.config.getoption("--minutes")
    seed = request.config.getoption("--seed")
    while True:
        print(f"sequence of seed {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        sequence = Sequence(folder / "run", start, seed)
        faults = [
            *[sequence.by_signal] * 3,
            sequence.by_damage,
            sequence.by_a_lost_chunk,
            sequence.by_a_cut_log,
            sequence.by_a_move,
            sequence.by_a_full_disk,
        ]
        sequence.by_signal()
        for fault in sequence.random.sample(faults, len(faults)):
            tally.attempt()
            fault()
            tally.survive()
        sequence.to_the_end()
        seed += 1
        if time.monotonic() > until:
            break
