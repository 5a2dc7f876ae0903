"""The folder of a run: what lies in it, who may write to it, where its numbers come from.

config.yaml     the merged configuration
sessions.jsonl  command, commit and hardware of each session that trained it
spaces.json     the environment's own spaces of observations and actions
metrics.jsonl   one object a line; and what `agent.run.writers` write: events.*, metrics.csv, wandb/
tracked.json    the run's names at Weights & Biases and MLflow
checkpoints/    see `agent.run.checkpoint`
best/           the same of the best evaluation, without replay
replay/         chunks of steps
data.json       of a world model fitted to episodes on disk: which ones, see `agent.run.data`
result.json     the last evaluation, once the run is done
crash/          after a number that was not finite, see `agent.run.crash`
aside-<n>/      what was put aside because it was damaged
.lock           held by the process that trains in it
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import configs
from agent.run import checkpoint
from agent.run.machine import hardware
from configs.files import read_json, read_lines
from envs import Interface
from replay.buffer import readable
from replay.files import append, publish, put_aside, writable

try:
    import fcntl
except ImportError as error:
    raise configs.Mistake(
        "runs are locked with fcntl, which Windows lacks; use Linux, macOS, or WSL on Windows."
    ) from error

REPOSITORY = Path(__file__).parents[2]
LINE, EPISODE = 3000, 250  # bytes in metrics.jsonl and TensorBoard, measured on small runs
PICTURES, MOVING = 110_000, 900_000  # and of what is drawn of vectors, and of pictures with their video
ACTING = "acting"  # what the checkpoint of a run that was handed on is for
SEVERAL = 15  # options that differ between two sizes, of which one is chosen where there is a GPU


class RunFolder:
    """The folder of one run, which need not be there yet.

    Its path is absolute from the start: an environment that changes the working directory does not move it.

    Raises:
        ValueError: the system takes no such path.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self.path = Path(path).absolute()
            self.path.is_dir()
        except OSError as error:  # such as a name of more than 255 bytes
            raise ValueError(f"{path}: {error.strerror or error}; give another --logdir.") from error
        self._held: tuple[int, int] | None = None  # device and inode of the lock, while it is held
        self._name: str | None = None  # of the run, once known

    @property
    def best(self) -> Path:
        """Where the checkpoint of the best evaluation is, as if it were a run's."""
        return self.path / "best"

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
        config = configs.read(path, fill=self.acts_alone())
        return config if device is None else configs.override(config, {"device": device})

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was written, whole or damaged."""
        return any((self.path / "checkpoints").glob("*"))

    def has_begun(self) -> bool:
        """Whether the run has left results, so that it may be gone on with by its own options only."""
        return self.has_checkpoint() or (self.path / "result.json").exists()

    def saved(self) -> configs.Config | None:
        """The configuration of the run that has begun in the folder; None if there is none.

        Raises ValueError if the folder cannot hold a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self} is a file; expected a folder, or a path where there is nothing yet.")
        path = self.path / "config.yaml"
        return configs.read(path) if path.exists() and self.has_begun() else None

    def refuse_another(
        self, config: configs.Config, free: Sequence[str] = configs.FREE_TO_CHANGE, fitted: bool = False
    ) -> list[str]:
        """What of the folder's run this configuration changes, a line for each option that may change.

        Raises ValueError if others differ, the folder cannot hold a run, its run was handed on to act, or is
        fitted to episodes on disk and this one is not, or the other way round.
        """
        if self.acts_alone():
            raise ValueError(
                f"{self} holds an agent that was handed on to act (export --format run): nothing goes on "
                f"learning there. In another --logdir, --init {self} begins with its world model."
            )
        saved = self.saved()
        writable(self.path, folder=True)
        if self.has_begun() and (self.data() is not None) != fitted:
            held = "a run in an environment" if fitted else "a world model fitted to episodes on disk"
            raise ValueError(f"{self} holds {held}: give another --logdir{'' if fitted else ', and --init'}.")
        known = checkpoint.newest_identity(self.path).get("configuration")
        if (
            saved is None
            and not (self.path / "config.yaml").exists()
            and known not in (None, _digest(config))
        ):
            raise ValueError(
                f"{self} has checkpoints of a run that was configured otherwise, and no config.yaml that "
                f"says how. Give the options that it was begun with, or another --logdir."
            )
        changed = {} if saved is None else configs.differences(saved, config)
        refused = [line for key, line in changed.items() if not configs.is_free(key, free)]
        if refused:
            listed = "\n  ".join(refused)
            size = "its size (--configs) included, " if len(refused) > SEVERAL else ""
            raise ValueError(
                f"{self} holds a run that was configured otherwise:\n  {listed}\n"
                f"Give the same options to go on with it, {size}or none; or another --logdir for a new run."
            )
        return list(changed.values())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, created if needed, for this process.

        The system frees the lock when the process ends, however it ends. The file stays: removing it would
        let two processes hold locks on two files of one name.

        Raises:
            configs.Mistake: it cannot be written or locked, another process holds it, or see `check`.
        """
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = append(path, lines=False)
        except OSError as error:
            raise configs.Mistake(
                f"{self} cannot be written ({error.strerror}: {error.filename}); give another --logdir."
            ) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read(200).strip() or "another process"
                raise configs.Mistake(
                    f"{self} is in use: {owner} trains in it. Wait for it or stop it (kill -TERM saves "
                    f"first), or give another --logdir."
                ) from None
            except OSError as error:
                raise configs.Mistake(
                    f"the file system of {self} has no locks ({error.strerror}), and without them two runs "
                    f"could write to one folder; give a --logdir on another."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            status = os.fstat(file.fileno())
            self._held = status.st_dev, status.st_ino
            try:
                yield
            except OSError:
                self.check()  # what could not be written into a folder that is gone
                raise
            finally:
                self._held = None

    def check(self) -> None:
        """Make sure that the path is still the folder which this process has `locked`, if it has.

        Raises:
            configs.Mistake: it was moved, removed or replaced.
        """
        if self._held is None:
            return
        try:
            status = (self.path / ".lock").lstat()
        except (FileNotFoundError, NotADirectoryError):
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._held:
            raise configs.Mistake(
                f"{self} is no longer the folder that this run began in: it, or the file .lock in it, was "
                f"moved, removed or replaced. Nothing more was saved. If the folder is elsewhere now, go on "
                f"from its newest checkpoint with --logdir and its new path."
            )

    def begin_session(
        self,
        config: configs.Config,
        argv: Sequence[str],
        changed: Sequence[str] = (),
        interface: Interface | None = None,
    ) -> None:
        """Write the configuration and the spaces of the environment; append this session.

        Its entries are `run` (the same word in all sessions and checkpoints of a run), `began` (UTC),
        `command`, `commit`, `hardware` and, where there are some, `changed`: the lines of `refuse_another`.
        """
        self._name = self._run() or uuid.uuid4().hex
        publish(self.path / "config.yaml", configs.dump(config), "the configuration")
        if interface is not None:
            publish(self.path / "spaces.json", json.dumps(interface.to_json(), indent=1), "the spaces")
        session = {
            "run": self._name,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(argv),
            "commit": commit(),
            "hardware": hardware(),
        } | ({"changed": list(changed)} if changed else {})
        with append(self.path / "sessions.jsonl") as file:
            file.write(json.dumps(session) + "\n")

    def _run(self) -> str | None:
        """The word that names this run; None before its first session.

        Where no session tells it, its newest checkpoint does.
        """
        if self._name is None:
            named = [str(line["run"]) for line in self.sessions() if "run" in line]
            self._name = named[-1] if named else checkpoint.newest_identity(self.path).get("run")
        return self._name

    def sessions(self) -> Iterator[dict[str, Any]]:
        """The entries of `begin_session`, of one session after the other."""
        return read_lines(self.path / "sessions.jsonl")

    def commits(self) -> list[str]:
        """The commits that trained the run, each once, in order; none where no session was recorded."""
        return list(dict.fromkeys(str(line["commit"]) for line in self.sessions() if "commit" in line))

    def acts_alone(self) -> bool:
        """Whether the run was handed on without what goes on learning, for later code to read as well."""
        return checkpoint.newest_identity(self.path).get("for") == ACTING

    def identity(self, *spaces: object, config: configs.Config | None = None) -> dict[str, str]:
        """What a checkpoint has to have in common with this run: its name, its configuration, its spaces.

        Entries that the folder does not tell are left out; `config` is that of a session which it does not
        tell of yet.
        """
        found = {"spaces": " ".join(str(space) for space in spaces)}
        if run := self._run():
            found["run"] = run
        if config is None and (self.path / "config.yaml").is_file() and not self.acts_alone():
            config = configs.read(self.path / "config.yaml")
        return found if config is None else found | {"configuration": _digest(config)}

    def begin_anew(self) -> None:
        """Put aside what a run left of which no checkpoint can be loaded, if any, and say so."""
        if not checkpoint.folders(self.path):
            return
        names = (
            "checkpoints",
            "best",
            "replay",
            "metrics.jsonl",
            "metrics.csv",
            "tracked.json",
            "result.json",
        )
        old = [path for name in names if (path := self.path / name).exists()] + [*self.path.glob("events.*")]
        place = put_aside(old, self.path)
        print(f"the run starts anew at step 0; what it had is in {place}", file=sys.stderr, flush=True)

    def interface(self) -> Interface | None:
        """Of the environment that the run is trained in; None where earlier code began it.

        Raises:
            ValueError: the file is cut, damaged, or holds no spaces.
        """
        found = self._object("spaces.json")
        try:
            return None if found is None else Interface.of_json(found)
        except ValueError as error:
            raise ValueError(f"{self.path / 'spaces.json'}: {error}.") from error

    def publish_data(self, data: Mapping[str, Any]) -> None:
        """Write to which episodes the run is fitted."""
        publish(self.path / "data.json", json.dumps(data), "the record of the data")

    def data(self) -> dict[str, Any] | None:
        """To which episodes the run is fitted; None of a run in an environment. Raises as `result` does."""
        return self._object("data.json")

    def publish_result(self, result: Mapping[str, Any]) -> None:
        """Write what the run ended with."""
        self.check()
        publish(self.path / "result.json", json.dumps(result), "the result")

    def result(self) -> dict[str, Any] | None:
        """What the run ended with; None before.

        Raises:
            ValueError: the file is cut or damaged.
        """
        return self._object("result.json")

    def _object(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return read_json(path) if path.is_file() else None


def commit() -> str:
    """The checked-out commit, with '-dirty' if tracked files were changed; 'unknown' outside git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def _digest(config: configs.Config) -> str:
    """A hash of the options that stay the same for all of a run."""
    fixed = {key: value for key, value in config.flat().items() if not configs.is_free(key)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def on_disk(
    config: configs.Config, parameters: int, disk: Callable[[int], tuple[int, int]], images: bool = False
) -> str:
    """One line on what a run's folder will take on disk at the end.

    Args:
        config: of the run.
        parameters: of the agent.
        disk: that of `Replay`.
        images: whether any are observed.
    """
    log, keep = config.log, config.checkpoint.keep
    late = keep * (config.checkpoint.every or config.steps)  # steps whose chunks wait for a checkpoint to go
    capacity = min(config.steps, config.replay.capacity)
    chunks, _ = disk(min(config.steps, capacity + late))
    _, rows = disk(capacity)
    moments = 3  # a parameter and what the optimiser keeps of it
    saved = keep * (moments * 4 * parameters + rows) + moments * 4 * parameters
    logged = (LINE, log.every), (MOVING if images else PICTURES, log.pictures)
    written = sum(size * config.steps // every for size, every in logged if every)
    parts = (("replay", chunks), (f"{keep} checkpoints and the best", saved), ("log", written))
    listed = ", ".join(f"{name} {readable(size)}" for name, size in parts)
    total = readable(chunks + saved + written)
    return f"on disk at the end: about {total} ({listed}), and {readable(EPISODE)} an episode"
