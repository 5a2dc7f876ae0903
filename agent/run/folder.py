"""The folder of a run: what lies in it, who may write to it, where its numbers come from.

config.yaml     the merged configuration
sessions.jsonl  command, commit and hardware of each session that trained it
metrics.jsonl   one object a line; and TensorBoard's events.*
checkpoints/    see `agent.run.checkpoint`
replay/         chunks of steps
result.json     the last evaluation, once the run is done
crash/          after a number that was not finite, see `agent.run.crash`
.lock           held by the process that trains in it
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import configs
from agent.run.machine import hardware
from replay.files import publish

REPOSITORY = Path(__file__).parents[2]
SEVERAL = 15  # options that differ between two sizes, of which one is chosen where there is a GPU


class RunFolder:
    """The folder of one run, which need not be there yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def of(cls, config: configs.Config) -> RunFolder:
        """The folder that a configuration names, or runs/<task>/<backbone>/seed<seed>."""
        task = re.sub(r"[^A-Za-z0-9=._-]+", "_", config.task).strip("._")  # what suits the name of a folder
        return cls(config.logdir or Path("runs") / task / config.backbone / f"seed{config.seed}")

    def __str__(self) -> str:
        return str(self.path)

    def configuration(self, device: str | None = None, checkpoint: bool = True) -> configs.Config:
        """The run's configuration, with another device if one is named.

        Args:
            device: in place of the saved one.
            checkpoint: whether the run has to have one.

        Raises:
            ValueError: there is no run, or it has no checkpoint; or see `configs.read`.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            raise ValueError(f"no run in {self}: expected {path}. Train one first, or name another folder.")
        if checkpoint and not self.has_checkpoint():
            raise ValueError(
                f"the run in {self} has no checkpoint yet: nothing in {self.path / 'checkpoints'}."
            )
        config = configs.read(path)
        return config if device is None else configs.override(config, {"device": device})

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was written, whole or damaged."""
        return any((self.path / "checkpoints").glob("*"))

    def has_begun(self) -> bool:
        """Whether the run has left results, so that it may be gone on with by its own options only."""
        return self.has_checkpoint() or (self.path / "result.json").exists()

    def refuse_another(self, config: configs.Config, ignore: Sequence[str] = configs.FREE_TO_CHANGE) -> None:
        """Raise ValueError if the folder cannot hold this run, or holds one that was configured otherwise."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self} is a file; expected a folder, or a path where there is nothing yet.")
        saved = self.path / "config.yaml"
        if not saved.exists() or not self.has_begun():
            return
        changed = configs.differences(configs.read(saved), config, ignore)
        if changed:
            listed = "\n  ".join(changed)
            size = "its size (--configs) included, " if len(changed) > SEVERAL else ""
            raise ValueError(
                f"{self} holds a run that was configured otherwise:\n  {listed}\n"
                f"Give the same options to go on with it, {size}or another --logdir for a new run."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, created if needed, for this process.

        The system frees the lock when the process ends, however it ends. The file stays: removing it would
        let two processes hold locks on two files of one name.

        Raises:
            configs.Mistake: it cannot be written, or another process holds it.
        """
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise configs.Mistake(
                f"{self} cannot be written ({error.strerror}: {error.filename}); give another --logdir."
            ) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = path.read_text(encoding="utf-8").strip() or "another process"
                raise configs.Mistake(
                    f"{self} is in use: {owner} trains in it. Wait for it or stop it (kill -TERM saves "
                    f"first), or give another --logdir."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield

    def begin_session(self, config: configs.Config, argv: Sequence[str]) -> None:
        """Write the configuration; append this session: `began` (UTC), `command`, `commit`, `hardware`."""
        publish(self.path / "config.yaml", configs.dump(config), "the configuration")
        session = {
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(argv),
            "commit": commit(),
            "hardware": hardware(),
        }
        with (self.path / "sessions.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(session) + "\n")

    def commits(self) -> list[str]:
        """The commits that trained the run, each once, in order; none where no session was recorded."""
        path = self.path / "sessions.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return list(dict.fromkeys(json.loads(line)["commit"] for line in lines))

    def publish_result(self, result: Mapping[str, Any]) -> None:
        """Write what the run ended with."""
        publish(self.path / "result.json", json.dumps(result), "the result")

    def result(self) -> dict[str, Any] | None:
        """What the run ended with; None before."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def commit() -> str:
    """The checked-out commit, with '-dirty' if tracked files were changed; 'unknown' outside git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
