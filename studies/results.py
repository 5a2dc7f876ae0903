"""Train the records of docs/results again, by one version. The same command again goes on.

`RECORDS` lists what they are. What each row returned before stands beside what it returns now.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import configs
from configs.command_line import Parser, Work, count
from configs.files import read_json
from replay.files import publish, writable
from studies import compare, tables
from studies.records import RESULTS

BOTH = "--backbones s4wm rssm"
EACH = "--backbones s4wm rssm s4wm_lru s4wm_s4 s4wm_s4d s4wm_mamba2 tssm rssm_tbtt"
GAUSSIAN = "--backbones s4wm --s4wm.classes 0 --decoder.vector_scale 10"
LONG_WINDOWS = "--batch_length 128 --batch_size 4"
AS_FITTED = "--configs offline --train_ratio 32"
PROTOCOL = "--configs small --device cpu --eval.every 4000 --eval.episodes 100 --log.pictures 0"
"""What every record is trained with; its own options come after."""
RECORDS = {
    "repeat_previous": f"--task repeat_previous {BOTH} --seeds 5 --steps 40000",
    "repeat_previous_hard": f"--task popgym:RepeatPreviousHard {BOTH} --seeds 5 --steps 100000",
    "memory_chain_100": f"--task memory_chain:n=100 {BOTH} --seeds 5 --steps 80000",
    "repeat_first_easy": f"--task popgym:RepeatFirstEasy {BOTH} --seeds 5 --steps 80000",
    "pendulum": f"--task Pendulum-v1 {BOTH} --seeds 5 --steps 30000",
    "tmaze_300": f"--task tmaze:corridor=300 {BOTH} --seeds 5 --steps 600000 --actor_critic.entropy 0.0003",
    "cartpole_balance-s4wm_gaussian": f"--task dmc:cartpole_balance {GAUSSIAN} --seeds 5 --steps 50000",
    "cartpole_balance-rssm": "--task dmc:cartpole_balance --backbones rssm --seeds 5 --steps 50000",
    "cartpole_swingup-s4wm_gaussian": f"--task dmc:cartpole_swingup {GAUSSIAN} --seeds 5 --steps 50000",
    "cartpole_swingup-rssm": "--task dmc:cartpole_swingup --backbones rssm --seeds 5 --steps 50000",
    "memory_chain_10": f"--task memory_chain:n=10 {EACH} --steps 16000 --eval.every 2000",
    "memory_chain_30": f"--task memory_chain:n=30 {BOTH} --steps 32000 --eval.every 2000",
    "memory_chain": f"--task memory_chain {BOTH} --steps 32000 --eval.every 2000",
    "memory_chain_60": f"--task memory_chain:n=60 {BOTH} --steps 60000",
    "repeat_previous_easy": f"--task popgym:RepeatPreviousEasy {EACH} --steps 40000",
    "repeat_previous_medium": f"--task popgym:RepeatPreviousMedium {BOTH} --steps 100000",
    "tmaze_30": f"--task tmaze:corridor=30 {BOTH} --steps 100000",
    "tmaze_100": f"--task tmaze:corridor=100 {BOTH} --steps 300000",
    "cartpole": f"--task CartPole-v1 {BOTH} --steps 24000",
    "cartpole_masked": f"--task cartpole_masked {BOTH} --steps 30000",
    "pendulum-s4wm_gaussian": f"--task Pendulum-v1 {GAUSSIAN} --steps 30000",
    "autoencode_easy": f"--task popgym:AutoencodeEasy {BOTH} --steps 100000 {LONG_WINDOWS}",
    "autoencode_easy-s4wm_selective_lru": (
        f"--task popgym:AutoencodeEasy --backbones s4wm_selective_lru --steps 200000 {LONG_WINDOWS} "
        f"--s4wm.selective_lru.max_phase 0.5 --eval.every 10000 "
        f"--optimiser.model_lr 0.003 --optimiser.ssm_lr 0.003 --optimiser.beta2 0.99"
    ),
    "state_tracking_parity": (
        "--task state_tracking:parity:length=16 --backbones s4wm_selective_lru s4wm rssm --steps 30000 "
        "--eval.every 2000"
    ),
    "concentration_easy": f"--task popgym:ConcentrationEasy {BOTH} --steps 100000",
    "memory_s7": f"--task minigrid:MemoryS7:observation=symbols {BOTH} --steps 100000 {AS_FITTED}",
    "memory_s11": f"--task minigrid:MemoryS11:observation=symbols {BOTH} --steps 100000",
    "memory_s11-offline": (
        f"--task minigrid:MemoryS11:observation=symbols --backbones s4wm --steps 300000 {AS_FITTED} "
        f"--eval.every 10000"
    ),
}
"""Name of a JSON in docs/results -> what `compare` takes for it."""


def arguments(parser: Parser) -> None:
    """Which records, where they are trained, and where they are put."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"in this order [{', '.join(RECORDS)}]")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="runs at the same time [1]")
    where = "folder of all the runs, one a record; those that are there are not repeated [runs/results]"
    parser.add_argument("--logdir", type=Path, default=Path("runs") / "results", metavar="DIR", help=where)
    out = "folder that gets NAME.json as soon as a record is complete, such as docs/results [none]"
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)


def prepare(args: argparse.Namespace) -> Work:
    """Every comparison is checked before the first is trained, see `compare.prepare`."""
    works = {}
    for name in args.names or RECORDS:
        if name not in RECORDS:
            hint = configs.did_you_mean(name, RECORDS)
            raise ValueError(f"no record '{name}'.{hint} Expected some of {', '.join(RECORDS)}.")
        asked = compare.parsed(f"{PROTOCOL} {RECORDS[name]}".split())
        asked.logdir, asked.jobs = args.logdir / name, args.jobs
        works[name] = compare.prepare(asked)
        if args.out:
            writable(args.out / f"{name}.json")

    def work() -> tuple[dict[str, Any], str]:
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
        rows = {}
        for name, train in works.items():
            before = RESULTS / f"{name}.json"
            recorded = read_json(before)["results"] if before.is_file() else {}
            report, _ = train()
            if args.out:
                publish(args.out / f"{name}.json", json.dumps(report, indent=1), "the record")
            for row, result in report["results"].items():
                rows[f"{name}, {configs.label(row)}"] = {"now": result, "before": recorded.get(row)}
        return {"rows": rows}, tables.text(rows.items(), COLUMNS)

    return work


def _returns(result: Mapping[str, Any] | None) -> str:
    return "-" if result is None else " ".join(f"{value:.3g}" for value in result["returns"])


def _hours(result: Mapping[str, Any]) -> float:
    return sum(seconds or 0 for seconds in result["seconds"]) / 3600


COLUMNS: tables.Columns = {
    "": lambda item: item[0],
    "returns before": lambda item: _returns(item[1]["before"]),
    "now": lambda item: _returns(item[1]["now"]),
    "core-hours": lambda item: f"{_hours(item[1]['now']):.2f}",
}
