"""What a run costs besides learning: the share of its loop spent in replay, checkpoints, disk space."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import configs
from agent.run.folder import RunFolder
from agent.run.loop import Training
from replay import Replay
from studies import tables
from studies.timing import Configurations, Result

REPLAY = ("wants_state", "add", "ready", "next", "refresh")  # what each step of the loop asks of the replay
CHECKPOINTS = 5
QUIET = {
    "eval.every": 0,
    "eval.episodes": 1,
    "eval.max_steps": 1,
    "log.pictures": 0,
    "log.to": "none",
}


class Clock:
    """A replay whose calls are timed: `calls` has begin and end of each, in seconds, by method."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self.calls: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._replay)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._replay, name)

        def timed(*positional: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = found(*positional, **named)
            self.calls[name].append((began, time.perf_counter()))
            return result

        return timed if callable(found) else found


def measure(configurations: Configurations, _lengths: Sequence[int], repeats: int) -> Result:
    """Train for the prefill in a temporary folder, then go on for `repeats` updates, and measure those.

    Evaluations, pictures and TensorBoard are left out; about five checkpoints are saved on the way. Lengths
    are not used: windows are as configured.

    Returns:
        `rows`, one per configuration: `name`, `updates`, `steps` (environment steps meanwhile),
        `steps_per_second` (of the loop, without checkpoints), `stored` (steps in the replay at the end),
        `share` (of the loop's time spent in the replay's methods, by name and as `replay`, their sum; without
        background threads), `checkpoint` (median seconds to save one), `checkpoint_worst`, `bytes_per_step`
        (of replay on disk at the end, per stored step), `bytes_agent` (of the rest of one checkpoint).
    """
    rows = []
    for name, config in configurations.items():
        with tempfile.TemporaryDirectory() as logdir:
            rows.append({"name": name} | _train(config, RunFolder(logdir), repeats))
    return {"rows": rows}


COLUMNS: tables.Columns = {
    "": lambda row: configs.label(row["name"]),
    "updates": lambda row: f"{row['updates']}",
    "steps/s": lambda row: f"{row['steps_per_second']:.1f}",
    "stored": lambda row: f"{row['stored']:,}",
    "replay": lambda row: f"{row['share']['replay']:.2%}",
    "add": lambda row: f"{row['share']['add']:.2%}",
    "next": lambda row: f"{row['share']['next']:.2%}",
    "refresh": lambda row: f"{row['share']['refresh']:.2%}",
    "checkpoint": lambda row: f"{1e3 * row['checkpoint']:.0f} ms",
    "worst": lambda row: f"{1e3 * row['checkpoint_worst']:.0f} ms",
    "bytes a step": lambda row: f"{row['bytes_per_step']:,.1f}",
    "agent": lambda row: f"{row['bytes_agent'] / 1e6:.1f} MB",
}


def _train(config: configs.Config, folder: RunFolder, updates: int) -> dict[str, Any]:
    """One run, as a row of `measure`."""
    # Updates begin when the prefill is over and a window is stored; some steps more make up for rounding.
    streams, tokens = config.envs.count, config.batch_size * config.batch_length
    begin = max(config.prefill, streams * (config.batch_length + config.replay.state_every + 1))
    end = begin + int(updates * tokens / config.train_ratio) + streams
    before = Training(configs.override(config, QUIET | {"steps": begin, "checkpoint.every": 0}), folder)
    before.run()
    every = max(1, (end - begin) // CHECKPOINTS)
    settings = QUIET | {"steps": end, "checkpoint.every": every}
    training = Training(configs.override(config, settings), folder)
    clock = Clock(training.replay)
    training.replay = cast(Any, clock)
    training.run()
    stored, seconds = len(clock), training.progress.seconds - before.progress.seconds
    steps = training.progress.step - before.progress.step
    share = {name: sum(end - begin for begin, end in clock.calls[name]) / seconds for name in REPLAY}
    # Saving asks the replay for its state first, and in the end to remove what no checkpoint needs any more.
    calls = zip(clock.calls["state_dict"], clock.calls["prune"], strict=True)
    saves = [done - began for (began, _), (_, done) in calls]
    newest = max((folder.path / "checkpoints").iterdir())
    sizes = {path: path.stat().st_size for path in folder.path.rglob("*.npz")}
    return {
        "updates": training.agent.updates - before.agent.updates,
        "steps": steps,
        "steps_per_second": steps / seconds,
        "stored": stored,
        "share": share | {"replay": sum(share.values())},
        "checkpoint": statistics.median(saves),
        "checkpoint_worst": max(saves),
        "bytes_per_step": sum(sizes.values()) / stored,
        "bytes_agent": sum(path.stat().st_size for path in newest.iterdir() if path not in sizes),
    }
