"""Whether two checkouts train the same agent: parameters are compared bit for bit; ends with 1 if any differ.

A change that must not change training is held to it: each backbone is trained by this checkout and by the
other one, in processes of their own. How a parameter is called, and in which order it stands, does not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import configs
from configs.command_line import Parser, Work, count

HERE = Path(__file__).parents[1]
TASKS = ("memory_chain", "Pendulum-v1")  # discrete actions, and continuous ones
Fingerprint = Counter[tuple[tuple[int, ...], str, int]]


def arguments(parser: Parser) -> None:
    """The other checkout, and what is trained."""
    parser.add_argument("other", type=Path, metavar="OTHER", help="folder of the other checkout")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=configs.backbones(),
        metavar="NAME",
        help="as this checkout names them, or HERE=THERE where the other one names them otherwise [all]",
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="TASK", help=f"[{' '.join(TASKS)}]")
    parser.add_argument("--steps", type=count, default=1400, metavar="N", help="environment steps [1400]")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="for every run, at the end")


def prepare(args: argparse.Namespace) -> Work:
    """See `trained`."""
    if not (args.other / "run.py").is_file():
        raise ValueError(f"no checkout in {args.other}: expected {args.other / 'run.py'}.")

    def work() -> tuple[dict[str, Any], str]:
        rows = []
        for task in args.tasks:
            for pair in args.backbones:
                here, _, there = pair.partition("=")
                ours = trained(HERE, here, task, args.steps, args.options)
                theirs = trained(args.other, there or here, task, args.steps, args.options)
                differing = max((ours - theirs).total(), (theirs - ours).total())
                verdict = f"{differing} differ" if differing else "the same"
                print(f"{task:20} {pair:20} {ours.total():4} tensors: {verdict}", flush=True)
                rows.append({"task": task, "backbone": pair, "tensors": ours.total(), "differing": differing})
        wrong = sum(row["differing"] > 0 for row in rows)
        if wrong:
            raise SystemExit(f"run.py: {wrong} of {len(rows)} agents differ.")
        return {"rows": rows}, f"{len(rows)} agents are the same"

    return work


def trained(checkout: Path, backbone: str, task: str, steps: int, options: Sequence[str]) -> Fingerprint:
    """Train in a temporary folder; shape, type and CRC-32 of each parameter, counted.

    Raises:
        RuntimeError: it fails, with the end of what the run printed.
    """
    with tempfile.TemporaryDirectory() as logdir:
        words = [sys.executable, str(checkout / "run.py"), "--backbone", backbone, "--task", task]
        words += ["--steps", str(steps), "--logdir", logdir, "--device", "cpu", "--threads", "1"]
        words += ["--eval.every", "0", "--eval.episodes", "1", "--log.pictures", "0", *options]
        # A path among the variables would lead one checkout to the other's modules.
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        run = subprocess.run(words, cwd=checkout, capture_output=True, text=True, env=variables)
        if run.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{run.stderr[-2000:]}")
        newest = max((Path(logdir) / "checkpoints").iterdir())
        state = torch.load(newest / "agent.pt", map_location="cpu", weights_only=True)
    tensors = [*state["model"].values(), *state["actor_critic"].values()]
    return Counter(
        (tuple(leaf.shape), str(leaf.dtype), zlib.crc32(leaf.contiguous().numpy().tobytes()))
        for leaf in tensors
    )
