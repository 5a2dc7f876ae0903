"""Whether two checkouts train the same agent: `python -m studies.same OTHER --help`.

A change that must not change training is held to it: each backbone is trained by this checkout and by the
other one, in processes of their own, and the parameters of both checkpoints are compared bit for bit. Where a
parameter is called, or in which order it stands, does not count.
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

import torch

HERE = Path(__file__).parents[1]
BACKBONES = ("s4wm", "s4wm_s4", "s4wm_s4d", "lruwm", "mamba2wm", "rssm", "rssm_tbtt", "tssm")
TASKS = ("memory_chain", "Pendulum-v1")  # discrete actions, and continuous ones
Fingerprint = Counter[tuple[tuple[int, ...], str, int]]


def trained(checkout: Path, backbone: str, task: str, steps: int, options: Sequence[str]) -> Fingerprint:
    """Train in a temporary folder; return shape, type and CRC-32 of each parameter, counted.

    Raises RuntimeError with the end of what the run printed if it fails.
    """
    with tempfile.TemporaryDirectory() as logdir:
        words = [sys.executable, str(checkout / "run.py"), "--backbone", backbone, "--task", task]
        words += ["--steps", str(steps), "--logdir", logdir, "--device", "cpu", "--threads", "1"]
        words += ["--eval.every", "0", "--eval.episodes", "1", "--log.pictures", "0", *options]
        run = subprocess.run(words, cwd=checkout, capture_output=True, text=True, env=_environment())
        if run.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{run.stderr[-2000:]}")
        newest = max((Path(logdir) / "checkpoints").iterdir())
        state = torch.load(newest / "agent.pt", map_location="cpu", weights_only=True)
    tensors = [*state["model"].values(), *state["actor_critic"].values()]
    return Counter(
        (tuple(leaf.shape), str(leaf.dtype), zlib.crc32(leaf.contiguous().numpy().tobytes()))
        for leaf in tensors
    )


def _environment() -> dict[str, str]:
    """This process's variables without a path that would lead one checkout to the other's modules."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def main(argv: Sequence[str] | None = None) -> int:
    """Train each backbone in two checkouts, and compare the parameters bit for bit; exit 1 if any differ."""
    parser = argparse.ArgumentParser(prog="python -m studies.same", description=main.__doc__)
    parser.add_argument("other", type=Path, metavar="OTHER", help="folder of the other checkout")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=BACKBONES,
        metavar="NAME",
        help="as this checkout names them, or HERE=THERE where the other one names them otherwise [all]",
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="TASK", help=f"[{' '.join(TASKS)}]")
    parser.add_argument("--steps", type=int, default=1400, metavar="N", help="environment steps [1400]")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="for every run, at the end")
    args = parser.parse_args(argv)
    if not (args.other / "run.py").is_file():
        parser.error(f"no checkout in {args.other}: expected {args.other / 'run.py'}.")
    different = 0
    for task in args.tasks:
        for pair in args.backbones:
            here, _, there = pair.partition("=")
            ours = trained(HERE, here, task, args.steps, args.options)
            theirs = trained(args.other, there or here, task, args.steps, args.options)
            missing = sum((ours - theirs).values())
            different += bool(missing or theirs - ours)
            verdict = f"{missing} of {ours.total()} tensors differ" if missing else "the same"
            print(f"{task:20} {pair:20} {ours.total():4} tensors: {verdict}", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
