"""What a run costs besides learning: the share of its loop spent in replay, checkpoints, disk space."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from agent.online import Training

REPLAY = ("wants_state", "add", "ready", "next", "refresh")
CHECKPOINTS = 5

Config = Mapping[str, Any]
Makers = tuple[Callable[[int, int, int], Any], Callable[[int], Any]]


class Clock:
    """Records the wall-clock time of method calls; a call within another is counted as part of that one."""

    def __init__(self) -> None:
        self.calls: dict[str, list[float]] = {}
        self._inside = False

    def watch(self, subject: Any, name: str) -> None:
        """Time every call of a method of `subject` from now on."""
        method = getattr(subject, name)
        calls = self.calls.setdefault(name, [])

        def timed(*positional: Any, **named: Any) -> Any:
            if self._inside:
                return method(*positional, **named)
            self._inside, began = True, time.perf_counter()
            try:
                return method(*positional, **named)
            finally:
                calls.append(time.perf_counter() - began)
                self._inside = False

        setattr(subject, name, timed)


def overhead(
    configurations: Mapping[str, Config],
    makers: Mapping[str, Makers],
    updates: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train for the prefill and `updates` in a temporary folder, and measure from the first update on.

    Arguments:
        configurations: name -> merged configuration. Evaluations, pictures and TensorBoard are left out, and
            five checkpoints are saved on the way.
        makers: name -> `make_envs` and `make_replay`, as `agent.online.train` takes them.
        updates: how many.
        device: `cpu` or `cuda`, the one that the configurations result in; for the report.

    Returns: `what`, `device`, `threads`, `torch` and `rows`, one per configuration: `name`, `updates`,
        `steps` (environment steps meanwhile), `steps_per_second` (of the loop, without checkpoints), `stored`
        (steps in the replay at the end), `share` (of the loop's time spent in the replay's methods, by name
        and as `replay`, their sum; without background threads), `checkpoint` (median seconds to save one),
        `checkpoint_worst`, `bytes_per_step` (of replay on disk at the end, per stored step), `bytes_agent`
        (of the rest of one checkpoint).
    """
    rows = []
    for name, config in configurations.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"name": name} | _train(config, *makers[name], Path(folder), updates))
    return {
        "what": "overhead",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }


def table(result: Mapping[str, Any]) -> str:
    """The rows of `overhead` as a text table."""
    lines = [
        f"overhead on {result['device']}, {result['threads']} threads, torch {result['torch']}",
        f"{'':22} {'updates':>7} {'steps/s':>8} {'stored':>9} {'replay':>7} {'add':>6} {'next':>6} "
        f"{'refresh':>7} {'checkpoint':>10} {'worst':>8} {'bytes a step':>12} {'agent':>8}",
    ]
    for row in result["rows"]:
        share = row["share"]
        lines.append(
            f"{row['name']:22} {row['updates']:>7} {row['steps_per_second']:>8.1f} {row['stored']:>9,} "
            f"{share['replay']:>7.2%} {share['add']:>6.2%} {share['next']:>6.2%} {share['refresh']:>7.2%} "
            f"{1e3 * row['checkpoint']:>7.0f} ms {1e3 * row['checkpoint_worst']:>5.0f} ms "
            f"{row['bytes_per_step']:>12,.1f} {row['bytes_agent'] / 1e6:>5.1f} MB"
        )
    return "\n".join(lines)


def _train(
    config: Config,
    make_envs: Callable[[int, int, int], Any],
    make_replay: Callable[[int], Any],
    logdir: Path,
    updates: int,
) -> dict[str, Any]:
    """One run, as a row of `overhead`."""
    # Updates begin when the prefill is over and a window is stored; some steps more make up for rounding.
    streams, tokens = config["envs"]["count"], config["batch_size"] * config["batch_length"]
    window = config["batch_length"] + config["replay"]["state_every"] + 1
    begin = max(config["prefill"], streams * window)
    steps = begin + int(updates * tokens / config["train_ratio"]) + streams
    changed = {
        "steps": steps,
        "eval": {**config["eval"], "every": 0, "episodes": 1, "envs": 1},
        "log": {**config["log"], "pictures": 0, "tensorboard": False},
        "checkpoint": {**config["checkpoint"], "every": max(1, (steps - begin) // CHECKPOINTS)},
    }
    training = Training({**config, **changed}, make_envs, make_replay, logdir)
    training.loop["next"]["checkpoint"] = begin  # none in the prefill: only those after it count
    clock, first = Clock(), dict[str, float]()
    for name in REPLAY:
        clock.watch(training.loader if name == "next" else training.replay, name)
    clock.watch(training, "_save")
    update = training.recorder.update

    def counted(batch: Mapping[str, Any]) -> Any:
        if not first:
            first.update(seconds=training.loop["seconds"], step=training.step)
            for calls in clock.calls.values():
                calls.clear()
        return update(batch)

    training.recorder.update = counted  # type: ignore[method-assign]
    training.run()
    seconds = training.loop["seconds"] - first["seconds"]
    share = {name: sum(clock.calls[name]) / seconds for name in REPLAY}
    newest = max((logdir / "checkpoints").iterdir())
    sizes = {path: path.stat().st_size for path in logdir.rglob("*.npz")}
    stored = len(training.replay)
    saves = clock.calls["_save"]
    return {
        "updates": training.agent.updates,
        "steps": training.step - int(first["step"]),
        "steps_per_second": (training.step - first["step"]) / seconds,
        "stored": stored,
        "share": share | {"replay": sum(share.values())},
        "checkpoint": statistics.median(saves),
        "checkpoint_worst": max(saves),
        "bytes_per_step": sum(sizes.values()) / stored,
        "bytes_agent": sum(path.stat().st_size for path in newest.iterdir() if path not in sizes),
    }
