"""What training and imagining cost by the length of a sequence, as the S4WM paper compares speed and memory.

A world model learns from each frame of sequences side by side. What is fitted to whole episodes sees them at
once; what is trained on segments sees these one after the other, so that its time is that of all segments and
its memory that of one. Frames are imagined from actions, one by one, and decoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import configs
from agent.run import machine, seams
from agent.run.folder import commit
from configs.command_line import Work
from replay.files import publish
from studies import costs, tables
from studies.fit import window
from studies.plots import save

NAME = "cost"


SIZES: dict[str, tuple[str, Sequence[str], int, Sequence[int], int]] = {
    "cpu": ("distracting_memory:width=100,observation=symbols", ["offline"], 8, (64, 128, 256, 512, 1024), 3),
    "paper": ("rooms", ["offline", "12m"], 8, (125, 250, 500, 1000, 2000), 10),
}
"""By budget: task, presets, sequences side by side, their lengths in frames, timed calls of each."""


def prepare(budget: str, backbones: Sequence[str], folder: Path) -> Work:
    """Check that all can be made here; the work writes `study.json` and `study.png` into the folder."""
    task, presets, batch_size, lengths, repeats = SIZES[budget]
    options = {"batch_size": str(batch_size)}
    chosen = {name: seams.configure(task, name, presets, options) for name in backbones}
    machine.prepare(chosen[backbones[0]].threads)

    def work() -> tuple[dict[str, Any], str]:
        gpu = torch.cuda.is_available()
        rows = measure(chosen, lengths, repeats)
        report = {
            "study": NAME,
            "budget": budget,
            "what": f"{batch_size} sequences of {task}, {repeats} repeats",
            "rows": rows,
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "threads": torch.get_num_threads(),
            "commit": commit(),
            "hardware": machine.hardware(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder / "study.json", json.dumps(report, indent=1), "the study")
        save(costs.by_length(report, PANELS), folder / "study.png")
        text = tables.text(rows, COLUMNS)
        return report, f"{report['what']}\n{text}\nwritten: {folder / 'study.json'}, study.png"

    return work


def measure(
    chosen: Mapping[str, configs.Config], lengths: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Measure every backbone at every length.

    Returns:
        for each length and backbone what `costs.measure` says of an update of `window` frames, `name` and
        `peak_memory` among it, with `length` (frames of a sequence), `median` (seconds to learn from the
        whole of it) and `imagined_per_second` (frames, of all sequences).
    """
    rows = []
    for length in lengths:
        for name, config in chosen.items():
            seen = window(config, length)
            (update,) = costs.measure("world_model", {name: config}, [seen], repeats)["rows"]
            (imagined,) = costs.measure("foresight", {name: config}, [length], repeats)["rows"]
            whole = {"length": length, "window": seen, "median": update["median"] * length / seen}
            rows.append(update | whole | {"imagined_per_second": imagined["tokens_per_second"]})
    return rows


PANELS = (
    ("milliseconds to learn from them", "median", 1e-3),
    ("peak memory of an update, MB", "peak_memory", 1e6),
    ("frames imagined a second", "imagined_per_second", 1),
)
COLUMNS: tables.Columns = {
    **{name: costs.COLUMNS[name] for name in ("", "steps", "median ms", "peak MB", "parameters")},
    "at once": lambda row: f"{row['window']}",
    "imagined/s": lambda row: f"{row['imagined_per_second']:,.0f}",
}
