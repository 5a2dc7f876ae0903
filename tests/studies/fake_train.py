"""Stands in for run.py in the tests of comparisons: writes a run's files, going on where it stopped."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def main(mode: str, folder: Path, backbone: str, seed: int, steps: int) -> None:
    """Log an evaluation every 100 steps: rssm learns half as fast, and its seed 1 never."""
    folder.mkdir(parents=True, exist_ok=True)
    if mode != "early":  # it fails before anything is saved
        (folder / "checkpoints" / "100").mkdir(parents=True, exist_ok=True)
    with (folder / "sessions.jsonl").open("a") as file:
        file.write(json.dumps({"commit": f"{backbone}{seed % 2}"}) + "\n")
    with (folder / "starts").open("a") as file:
        file.write(f"{os.environ['OMP_NUM_THREADS']} {time.time()}\n")
    if mode == "early" or (mode == "fail" and seed == 1):
        time.sleep(0.5)
        print("Traceback: the model exploded", file=sys.stderr)
        sys.exit(3)
    if mode in ("fail", "hang") or (mode == "preempted" and not (folder / "saved").exists()):
        signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").write_text("yes"), sys.exit(143)))
        (folder / "new").write_text(f"{os.getpid()} {os.getppid()}")
        (folder / "new").rename(folder / "ready")
        time.sleep(60)
    path = folder / "metrics.jsonl"
    done = json.loads(path.read_text().splitlines()[-1])["step"] if path.exists() else 0
    last = steps if mode != "short" else steps - 100
    speed = {"s4wm": 0.002, "rssm": 0.0 if seed == 1 else 0.001}[backbone]
    with path.open("a") as file:
        for step in range(done + 100, last + 100, 100):
            value = min(1.0, step * speed)
            entry = {"step": step + seed, "eval/return_mean": value, "time/seconds": step / 50 + seed}
            file.write(json.dumps({"step": step + seed, "train/loss": 1.0}) + "\n" + json.dumps(entry) + "\n")
    (folder / "result.json").write_text(json.dumps({"steps": last}))
    if mode == "slow":
        time.sleep(0.4)
    with (folder / "starts").open("a") as file:
        file.write(f"end {time.time()}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    for name, kind in {"logdir": Path, "backbone": str, "seed": int, "steps": int}.items():
        parser.add_argument(f"--{name}", type=kind)
    args, _ = parser.parse_known_args()
    main(args.mode, args.logdir, args.backbone, args.seed, args.steps)
