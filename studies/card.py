"""Measure and check on a CUDA GPU what only it can show: kernels, updates, launches, runs of every backbone.

Each part is a process of its own with a time limit: some errors leave a process unable to use its GPU. What
a case of a part found, or the error that it ended with, is printed and written as soon as it is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import configs
from agent.agent import Agent
from agent.run import machine
from agent.run.evaluation import evaluate
from agent.run.folder import RunFolder, commit
from agent.run.loop import Training
from agent.run.saved import SavedRun
from agent.run.session import carry_out
from configs.command_line import Parser, Work, count
from replay.files import publish, writable
from studies import costs, overhead, timing
from studies.timing import Configurations, Result, Subject
from worldmodels.ssm import diagonal

Cases = Iterable[tuple[str, Callable[[], Result]]]
"""Names, and what is done under them; a case that raises does not keep the next one from its turn."""
MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "compile": {"compile": True},
    "bfloat16": {"precision": "bfloat16"},
    "compile, bfloat16": {"compile": True, "precision": "bfloat16"},
}


def arguments(parser: Parser) -> None:
    """What to do, for how long, and where the results go."""
    limits = " ".join(f"{name}={limit}" for name, (_, limit) in PARTS.items())
    parts = f"in this order, each for so many seconds at most [{limits}]"
    whole = [part(name) for name in PARTS]
    parser.add_argument("--parts", nargs="+", type=part, default=whole, metavar="NAME[=SECONDS]", help=parts)
    out = "a new file for the results [runs/card.json]"
    parser.add_argument("--out", type=Path, default=Path("runs/card.json"), metavar="FILE.json", help=out)


def part(text: str) -> tuple[str, int]:
    """A part of `PARTS` as typed, with its own time limit or another: kernels, updates=240."""
    name, _, seconds = text.partition("=")
    if name not in PARTS:
        hint = configs.did_you_mean(name, PARTS)
        raise argparse.ArgumentTypeError(
            f"unknown part '{name}'.{hint} Expected one of {', '.join(PARTS)}, such as updates or updates=240"
        )
    return name, count(seconds) if seconds else PARTS[name][1]


def prepare(args: argparse.Namespace) -> Work:
    """See the parts."""
    if not torch.cuda.is_available():
        raise ValueError("card measures a CUDA GPU, and torch finds none here; bench measures a CPU too.")
    writable(args.out, (".json",))
    if args.out.exists():
        raise ValueError(f"{args.out} exists, and may not be measured again soon; give another --out.")

    def work() -> tuple[Result, str]:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result: Result = {"commit": commit(), "hardware": machine.hardware(), "rows": []}
        result["triton"] = importlib.util.find_spec("triton") is not None
        for name, limit in args.parts:
            for row in run_part(partial(PARTS[name][0], "cuda"), limit):
                result["rows"].append({"part": name} | row)
                publish(args.out, json.dumps(result, indent=1), "what a GPU did")
                print(json.dumps(result["rows"][-1]), flush=True)
        failed = [f"failed: {row['part']}, {row['case']}" for row in result["rows"] if "error" in row]
        return result, "\n".join([*failed, f"{len(result['rows'])} results: {args.out}"])

    return work


def run_part(cases: Callable[[], Cases], limit: float) -> Iterator[Result]:
    """The results of cases, made and worked through in a process of their own, as they come.

    Each has `case` and `seconds`; where it failed `error` and `traceback`. Where the process died, or `limit`
    seconds were over, the last one says so.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(cases, theirs))
    end, case = time.monotonic() + limit, "the beginning"
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            row = ours.recv()
            case = f"after {row['case']}"
            yield row
        yield {"case": case, "error": f"not done within {limit} s"}
    except EOFError:
        process.join()
        if process.exitcode:
            yield {"case": case, "error": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _work(cases: Callable[[], Cases], results: Connection) -> None:
    machine.prepare(1)
    for name, call in cases():
        began = time.monotonic()
        try:
            row = call()
        except Exception as error:
            row = {"error": repr(error), "traceback": traceback.format_exc()}
        results.send({"case": name, "seconds": time.monotonic() - began} | row)


def kernels(
    device: str, lengths: Sequence[int] = (64, 150, 256, 1024), modes: int = 256, copied: int = 2**30
) -> Cases:
    """The recurrence of each type of numbers, see `recurrence`; the floor is that of a copy of many bytes."""
    bandwidth = timing.copy_speed(device, copied)
    for dtype in (torch.complex64, torch.float32, torch.complex128, torch.float64):
        for varying in (False, True):
            for length in lengths:
                name = f"{dtype}, {'a decay a step' if varying else 'one decay'}, T = {length}"
                yield name, partial(recurrence, device, dtype, varying, (16, length, modes), bandwidth)


def recurrence(
    device: str, dtype: torch.dtype, varying: bool, shape: tuple[int, int, int], bandwidth: float
) -> Result:
    """The states of a window of `shape` `[B, T, M]`, `forward`, and gradients through them, `backward`.

    Returns:
        of both: `error`, the largest over the largest number, against doubles on the CPU; `seconds` as
        called, `on_device` those of its kernels alone, `loop` those of the plain PyTorch form, and `floor`,
        those it takes to move each number once at `bandwidth`, in bytes per second.
    """
    torch.manual_seed(0)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    decay = torch.rand(shape if varying else shape[2:], dtype=torch.float64)
    decay = torch.polar(decay, 7 * torch.rand_like(decay)) if dtype.is_complex else decay
    inputs, state, weight = (torch.randn(size, dtype=wide) for size in (shape, shape[::2], shape))
    is_first = torch.rand(shape[:2]) < 0.1
    results = []
    for where, kind in (("cpu", wide), (device, dtype)):  # what the last one leaves is timed
        plain = decay.to(where, kind), inputs.to(where, kind), state.to(where, kind), is_first.to(where)
        leaves, grad = [x.clone().requires_grad_() for x in plain[:3]], weight.to(where, kind)
        states = diagonal.linear_recurrence(leaves[0], leaves[1], leaves[2], plain[3])
        results.append((states.detach(), *torch.autograd.grad(states, leaves, grad, retain_graph=True)))
    errors = torch.stack([(x.cpu() - y).abs().max() / y.abs().max() for y, x in zip(*results, strict=True)])
    looped, resets = diagonal.loop_forward(*plain)
    calls: list[Callable[[], object]] = [
        lambda: diagonal.linear_recurrence(*plain),
        lambda: torch.autograd.grad(states, leaves, grad, retain_graph=True),
        lambda: diagonal.loop_forward(*plain),
        lambda: diagonal.loop_backward(plain[0], plain[2], plain[3], looped, grad, resets),
    ]
    seconds = [cost.median for cost in timing.measure(calls, 5, device)]
    moved = 2 + varying, 3 + 2 * varying  # tensors as large as the states, read or written
    return {
        name: {
            "error": float(errors[which].max()),
            "seconds": seconds[way],
            "on_device": timing.traced(calls[way], device)["on_device"],
            "loop": seconds[2 + way],
            "floor": moved[way] * states.nbytes / bandwidth,
        }
        for way, (name, which) in enumerate((("forward", slice(1)), ("backward", slice(1, None))))
    }


def chosen(device: str, preset: str, mode: str) -> Configurations:
    """S4WM and the RSSM at a preset, in one of `MODES`, for the default task."""
    options = {"device": device} | MODES[mode]
    return {name: configs.load(None, name, [preset], options) for name in ("s4wm", "rssm")}


def updates(
    device: str, preset: str, lengths: Sequence[int], modes: Iterable[str] = tuple(MODES), size: int = 8192
) -> Cases:
    """What `costs.measure` says of whole updates, and their share of bfloat16's speed in a large product."""
    peak = timing.matmul_speed(device, size, dtype=torch.bfloat16)

    def case(mode: str, length: int) -> Result:
        result = costs.measure("update", chosen(device, preset, mode), [length], 5)
        for row in result["rows"]:
            row["peak_share"] = row.pop("matmul_share") * result["matmul"] / peak
        return {"preset": preset, "peak": peak} | result

    for length in lengths:
        for mode in modes:
            yield f"{mode}, T = {length}", partial(case, mode, length)


def an_update(name: str, config: configs.Config, length: int = 64) -> tuple[Agent, Callable[[], object]]:
    """An agent, and an update of it on a batch that is always the same."""
    subject = Subject(name, config)
    batch = subject.agent.prepare(subject.batch(subject.rows, length))
    return subject.agent, lambda: subject.agent.update(batch)


def launches(device: str, preset: str = "12m") -> Cases:
    """What an update asks of the GPU, see `timing.traced`."""

    def case(name: str, config: configs.Config) -> Result:
        return timing.traced(an_update(name, config)[1], device)

    for mode in MODES:
        for name, config in chosen(device, preset, mode).items():
            yield f"{name}, {mode}", partial(case, name, config)


def finite(device: str, preset: str = "12m", count: int = 200) -> Cases:
    """Metrics of updates in bfloat16; one that is not finite is an error."""

    def case(name: str, config: configs.Config) -> Result:
        agent, update = an_update(name, config)
        for _ in range(count):
            update()
        return agent.metrics()

    for name, config in chosen(device, preset, "bfloat16").items():
        yield name, partial(case, name, config)


def runs(device: str, backbones: Iterable[str] | None = None, steps: int = 100) -> Cases:
    """For each backbone a run of the preset debug that goes from the CPU to the device and back."""
    for name in backbones or configs.backbones():
        yield name, partial(there_and_back, device, name, steps)


def there_and_back(device: str, backbone: str, steps: int) -> Result:
    """`updates` made by the end of each stage, and the `returns` of the last checkpoint on both devices."""
    updates = []
    with tempfile.TemporaryDirectory() as folder:
        for stage, where in enumerate(("cpu", device, "cpu"), 1):
            options = overhead.QUIET | {"device": where, "steps": stage * steps, "eval.max_steps": 60}
            training = Training(configs.load(None, backbone, ["debug"], options), RunFolder(folder))
            result = carry_out(training, training.collector.interface, ["python", "run.py", "card"], [])
            updates.append(result["updates"])
        saved = [SavedRun.that_acts(Path(folder), where) for where in ("cpu", device)]
        returns = [evaluate(run, episodes=4, seed=0)["returns"] for run in saved]
    return {"updates": updates, "returns": returns, "same": all(map(math.isclose, *returns))}


PARTS: dict[str, tuple[Callable[[str], Cases], int]] = {
    "kernels": (kernels, 90),
    "updates": (partial(updates, preset="12m", lengths=(64, 256, 1024)), 190),
    "launches": (launches, 45),
    "matmul": (partial(updates, preset="50m", lengths=(64,), modes=("bfloat16", "compile, bfloat16")), 40),
    "finite": (finite, 55),
    "runs": (runs, 60),
}
"""Name -> the cases on a device, and the seconds that they may take; eight minutes in all."""
