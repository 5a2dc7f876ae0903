"""Train rows of a recorded comparison anew, on fresh seeds, and say whether they return what was recorded."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import configs
from configs.command_line import Parser, Work, count
from configs.files import read_json
from studies import compare, tables
from studies.grid import Variant

FIRST = 100
"""The first of the fresh seeds; no recorded comparison reaches it."""
SURE = 0.95
"""How probably the range of a new run holds it, were returns normally distributed."""


def arguments(parser: Parser) -> None:
    """Which record, which of its rows, and how many runs."""
    parser.add_argument("file", type=Path, metavar="FILE.json", help="compare.json of a comparison")
    rows = "rows to train anew, in quotes if of a grid [all of them]"
    parser.add_argument("--rows", nargs="+", default=(), metavar="NAME", help=rows)
    fresh = f"runs of each, from seed {FIRST} on [1]"
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help=fresh)
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="runs at the same time [1]")
    where = "folder of the runs; the same command again goes on there [runs/verify/FILE]"
    parser.add_argument("--logdir", type=Path, metavar="DIR", help=where)


def prepare(args: argparse.Namespace) -> Work:
    """See `judge`; `compare` trains, as the recorded command says."""
    record = read_json(args.file)
    if not {"task", "results", "command"} <= record.keys():
        raise ValueError(f"{args.file} is no comparison: expected a compare.json.")
    recorded, folder = record["results"], args.logdir or Path("runs") / "verify" / args.file.stem
    for name in args.rows:
        if name not in recorded:
            hint = configs.did_you_mean(name, recorded)
            raise ValueError(f"{args.file} has no row '{name}'.{hint} It has {', '.join(recorded)}.")
    works = {}
    for name in args.rows or recorded:
        row = Variant(recorded[name].get("backbone", name), recorded[name].get("options", {}))
        as_then = compare.parsed(shlex.split(record["command"].partition(" compare ")[2]))
        as_then.backbones, as_then.grid = [row.backbone], []
        as_then.overrides |= row.options
        as_then.run, as_then.logdir = None, folder / row.folder
        as_then.seeds, as_then.first_seed, as_then.jobs = args.seeds, FIRST, args.jobs
        works[name] = compare.prepare(as_then)

    def work() -> tuple[dict[str, Any], str]:
        rows = {}
        for name, train in works.items():
            (fresh,) = train()[0]["results"].values()
            rows[name] = judge(recorded[name]["returns"], fresh["returns"]) | {"commits": fresh["commits"]}
        head = f"{record['task']}, {record['steps']:,} steps; fresh runs from seed {FIRST} on"
        found = {"file": str(args.file), "task": record["task"], "steps": record["steps"], "rows": rows}
        return found, f"{head}\n{tables.text(rows.items(), COLUMNS)}"

    return work


def judge(recorded: Sequence[float], fresh: Sequence[float]) -> dict[str, Any]:
    """Whether fresh returns are where a new run of the recorded ones is expected.

    That is their prediction interval, mean +- t s sqrt(1 + 1 / n), with Student's t of n - 1 degrees of
    freedom. The interval of their mean says where the mean is, and half of all new runs lie outside the
    lowest and the highest of three.

    Returns:
        `recorded`, `fresh`, `expected` (lowest and highest; None of a single recorded run, which tells no
        spread) and `inside`, whether all fresh ones are (None likewise).
    """
    from scipy import stats  # takes two seconds, which help can do without

    runs, expected, inside = np.array(recorded, float), None, None
    if len(runs) > 1:
        half = stats.t.ppf((1 + SURE) / 2, len(runs) - 1) * runs.std(ddof=1) * np.sqrt(1 + 1 / len(runs))
        expected = [float(runs.mean() - half), float(runs.mean() + half)]
        inside = all(expected[0] <= value <= expected[1] for value in fresh)
    return {"recorded": list(recorded), "fresh": list(fresh), "expected": expected, "inside": inside}


def _verdict(row: Mapping[str, Any]) -> str:
    return "one run tells no spread" if row["inside"] is None else "inside" if row["inside"] else "OUTSIDE"


def _numbers(values: Sequence[float] | None) -> str:
    return "-" if values is None else ", ".join(f"{value:.3g}" for value in values)


COLUMNS: tables.Columns = {
    "": lambda item: configs.label(item[0]),
    "recorded": lambda item: _numbers(item[1]["recorded"]),
    "a new run, 95 %": lambda item: _numbers(item[1]["expected"]),
    "fresh": lambda item: _numbers(item[1]["fresh"]),
    "verdict": lambda item: _verdict(item[1]),
}
