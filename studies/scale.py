"""Measure whether replay stays as fast and as small in memory when it grows.

A replay on disk is filled with made-up rows of 16 environments, windows are sampled, and it is saved and
loaded as a checkpoint does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import timeit
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs.command_line import Parser, Work, count
from replay import Replay
from studies import tables

STREAMS, BATCH, LENGTH, EPISODE = 16, 16, 64, 1000
POOL = 97  # different rows; a prime, so that windows differ
SIZES = (10_000, 100_000, 1_000_000)


def arguments(parser: Parser) -> None:
    """How large, of what, and where."""
    steps = "sizes of the replay [1e4 1e5 1e6]"
    parser.add_argument("--steps", type=count, nargs="+", default=SIZES, metavar="N", help=steps)
    parser.add_argument("--images", action="store_true", help="64x64 pictures instead of vectors of 32")
    parser.add_argument("--memory-gb", type=float, default=1.0, metavar="X", help="as replay.memory_gb [1]")
    folder = "where the replay lies meanwhile [runs/scale]"
    parser.add_argument("--folder", type=Path, default=Path("runs/scale"), metavar="DIR", help=folder)


def prepare(args: argparse.Namespace) -> Work:
    """See `measure`."""
    folder: Path = args.folder
    if folder.exists():
        raise ValueError(f"{folder} exists: it would be filled and removed; name a folder that does not.")

    def work() -> tuple[dict[str, Any], str]:
        rows = []
        for steps in tqdm(args.steps, unit="size"):
            try:
                rows.append(measure(steps, args.images, args.memory_gb, folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            tqdm.write(json.dumps(rows[-1]), file=sys.stderr)  # the next one may take an hour
        return {"rows": rows}, tables.text(rows, COLUMNS)

    return work


def made_up(images: bool) -> dict[str, np.ndarray]:
    """A row of `STREAMS` environments, times `POOL`: pictures, or vectors of 32."""
    random = np.random.default_rng(0)
    seen = {"obs/vector": random.normal(size=(POOL, STREAMS, 32)).astype(np.float32)}
    if images:
        seen = {"obs/image": random.integers(0, 256, (POOL, STREAMS, 64, 64, 3), np.uint8)}
    return seen | {
        "action": random.integers(0, 6, (POOL, STREAMS)),
        "reward": random.normal(size=(POOL, STREAMS)).astype(np.float32),
        "is_terminal": np.zeros((POOL, STREAMS), bool),
    }


def measure(steps: int, images: bool, memory_gb: float, folder: Path, samples: int = 200) -> dict[str, Any]:
    """Fill a replay in `folder`, which must not exist, with `steps` steps; sample, save and load it.

    Returns:
        `steps`, `images`, `memory_gb`; microseconds a step to `add`; milliseconds to `sample` (median and
        95 % quantile, and of the loaded one); `resident_gb`, memory that the process holds;
        `disk_bytes_per_step`; seconds to `load`.
    """

    def empty() -> Replay:
        return Replay(steps, STREAMS, BATCH, LENGTH, 0, online=False, memory_gb=memory_gb, folder=folder)

    replay, pool = empty(), made_up(images)
    began = time.perf_counter()
    for t in range(steps // STREAMS):
        ends = {"is_first": t % EPISODE == 0, "is_last": t % EPISODE == EPISODE - 1}
        row = {key: value[t % POOL] for key, value in pool.items()}
        replay.add(row | {key: np.full(STREAMS, value) for key, value in ends.items()})
    chunks = replay.chunks()
    added = time.perf_counter() - began
    first = timeit.repeat(replay.sample, number=1, repeat=samples)
    state = {key: np.array(value) for key, value in replay.state_dict().items()}
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    replay.close()
    del replay
    loaded = empty()
    began = time.perf_counter()
    assert loaded.load_state_dict(state, chunks) == []
    load = time.perf_counter() - began
    again = timeit.repeat(loaded.sample, number=1, repeat=samples)
    loaded.close()
    on_disk = sum(found["size"] for found in chunks.values()) + sum(value.nbytes for value in state.values())
    return {
        "steps": steps,
        "images": images,
        "memory_gb": memory_gb,
        "add_us_per_step": added / steps * 1e6,
        "sample_ms": float(np.median(first)) * 1e3,
        "sample_ms_95": float(np.quantile(first, 0.95)) * 1e3,
        "sample_ms_loaded": float(np.median(again)) * 1e3,
        "resident_gb": resident / 2**30,
        "disk_bytes_per_step": on_disk / steps,
        "load_s": load,
    }


COLUMNS: tables.Columns = {
    "steps": lambda row: f"{row['steps']:,}",
    "add, us a step": lambda row: f"{row['add_us_per_step']:.1f}",
    "sample, ms (95 %)": lambda row: f"{row['sample_ms']:.2f} ({row['sample_ms_95']:.2f})",
    "after a reload, ms": lambda row: f"{row['sample_ms_loaded']:.2f}",
    "in memory, GiB": lambda row: f"{row['resident_gb']:.2f}",
    "load, s": lambda row: f"{row['load_s']:.1f}",
}
