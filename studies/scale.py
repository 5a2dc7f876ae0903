"""Whether replay stays as fast and as small in memory when it grows: `python -m studies.scale --help`.

A replay on disk is filled with made-up rows of 16 environments, windows are sampled, and it is saved and
loaded as a checkpoint does. One JSON object for each size is printed as it is ready, then a table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replay import Replay

STREAMS, BATCH, LENGTH, EPISODE = 16, 16, 64, 1000
POOL = 97  # different rows; a prime, so that windows differ


def rows(images: bool) -> list[dict[str, np.ndarray]]:
    """Return rows of `STREAMS` environments without an episode's beginning: pictures, or vectors of 32."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(POOL):
        seen = {"obs/vector": random.normal(size=(STREAMS, 32)).astype(np.float32)}
        if images:
            seen = {"obs/image": random.integers(0, 256, (STREAMS, 64, 64, 3), np.uint8)}
        flags = {name: np.zeros(STREAMS, bool) for name in ("is_first", "is_last", "is_terminal")}
        action, reward = random.integers(0, 6, STREAMS), random.normal(size=STREAMS).astype(np.float32)
        made.append({**seen, **flags, "action": action, "reward": reward})
    return made


def measure(steps: int, images: bool, memory_gb: float, folder: Path, samples: int = 200) -> dict[str, Any]:
    """Fill a replay in `folder`, which must not exist, with `steps` steps; sample, save and load it.

    Returns: `steps`, `images`, `memory_gb`; microseconds a step to `add`; milliseconds to `sample` (median
        and 95 % quantile, and of the loaded one); `resident_gb`, memory that the process holds;
        `disk_bytes_per_step`; seconds to `load`.
    """
    sizes: dict[str, Any] = {
        "capacity": steps,
        "streams": STREAMS,
        "batch_size": BATCH,
        "batch_length": LENGTH,
        "seed": 0,
        "online": False,
        "memory_gb": memory_gb,
        "folder": folder,
    }
    replay, pool = Replay(**sizes), rows(images)
    began = time.perf_counter()
    for t in range(steps // STREAMS):
        row = dict(pool[t % POOL])
        row["is_first"] = np.full(STREAMS, t % EPISODE == 0)
        row["is_last"] = np.full(STREAMS, t % EPISODE == EPISODE - 1)
        replay.add(row)
    chunks = replay.chunks()
    added = time.perf_counter() - began
    first = _times(replay, samples)
    state = {key: np.array(value) for key, value in replay.state_dict().items()}
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    replay.close()
    del replay
    loaded = Replay(**sizes)
    began = time.perf_counter()
    assert loaded.load_state_dict(state, chunks) == []
    load = time.perf_counter() - began
    again = _times(loaded, samples)
    loaded.close()
    on_disk = sum(found["size"] for found in chunks.values()) + sum(value.nbytes for value in state.values())
    return {
        "steps": steps,
        "images": images,
        "memory_gb": memory_gb,
        "add_us_per_step": added / steps * 1e6,
        "sample_ms": float(np.median(first)),
        "sample_ms_95": float(np.quantile(first, 0.95)),
        "sample_ms_loaded": float(np.median(again)),
        "resident_gb": resident / 2**30,
        "disk_bytes_per_step": on_disk / steps,
        "load_s": load,
    }


def _times(replay: Replay, samples: int) -> list[float]:
    """Return milliseconds of each of `samples` batches."""
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        replay.sample()
        times.append((time.perf_counter() - began) * 1e3)
    return times


def main(argv: Sequence[str] | None = None) -> None:
    """Measure replays of growing sizes; the files are removed again."""
    parser = argparse.ArgumentParser(prog="python -m studies.scale", description=main.__doc__)
    parser.add_argument("--steps", type=float, nargs="+", default=[1e4, 1e5, 1e6], metavar="N")
    parser.add_argument("--images", action="store_true", help="64x64 pictures instead of vectors of 32")
    parser.add_argument("--memory-gb", type=float, default=1.0, metavar="X", help="as replay.memory_gb [1]")
    parser.add_argument("--folder", type=Path, default=Path("runs/scale"), metavar="DIR")
    args = parser.parse_args(argv)
    if args.folder.exists():
        parser.error(f"{args.folder} exists: it would be filled and removed; name a folder that does not.")
    measured = []
    for steps in args.steps:
        try:
            measured.append(measure(int(steps), args.images, args.memory_gb, args.folder))
        finally:
            shutil.rmtree(args.folder, ignore_errors=True)
        print(json.dumps(measured[-1]), flush=True)
    print("| steps | add, us a step | sample, ms (95 %) | after a reload, ms | in memory, GiB | load, s |")
    print("|---|---|---|---|---|---|")
    for got in measured:
        print(
            f"| {got['steps']:,} | {got['add_us_per_step']:.1f} | {got['sample_ms']:.2f} "
            f"({got['sample_ms_95']:.2f}) | {got['sample_ms_loaded']:.2f} | {got['resident_gb']:.2f} | "
            f"{got['load_s']:.1f} |"
        )


if __name__ == "__main__":
    main()
