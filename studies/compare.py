"""Train and evaluate several backbones with several seeds on one task, everything else equal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import configs
from configs.command_line import Parser, Work, add_configuration, add_run, add_seed, count, run_of
from configs.files import to_stderr
from studies import tables

FEW = 10  # with this many runs or more, an interval holds the true mean about as often as it says


def arguments(parser: Parser) -> None:
    """What to compare, where, and the options of every run."""
    add_run(parser, "folder of all the runs; the same command again goes on with the comparison in it")
    parser.add_argument("--task", metavar="TASK", help="the task [the default's]")
    parser.add_argument(
        "--backbones", nargs="+", required=True, metavar="NAME", help=f"of {', '.join(configs.backbones())}"
    )
    product = "an option's values, each a row of its own; given several times, all combinations"
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,...", help=product)
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="how many of each [3]")
    add_seed(parser, "of the first run; the others follow [0]", 0, "--first-seed")
    parser.add_argument("--steps", type=count, metavar="N", help="environment steps of each [the task's]")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="runs at the same time [1]")
    ranks = "processes of each run, which torchrun starts on its machine: see docs/scaling.md [1]"
    parser.add_argument("--processes", type=count, default=1, metavar="N", help=ranks)
    where = "where runs are processes: on this machine, or on a SLURM cluster, as one array job [local]"
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help=where)
    sbatch = "of sbatch, for each run: time=720 (minutes), partition=gpu, gpus_per_node=1 ..., one a --slurm"
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help=sbatch)
    add_configuration(parser, without=("task", "backbone", "seed", "steps", "logdir"))


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """What `prepare` takes, from the words of a command line behind `compare`."""
    parser = Parser("compare", "")
    arguments(parser)
    return parser.parse(words)


def prepare(args: argparse.Namespace) -> Work:
    """See `studies.comparison.compare`; what its runs would refuse is refused here."""
    folder = run_of(args)
    if len(set(args.backbones)) < len(args.backbones):
        raise ValueError(f"name each backbone once, got --backbones {' '.join(args.backbones)}.")

    from agent.run import loop, seams
    from agent.run.folder import RunFolder
    from studies import grid, slurm
    from studies.comparison import Comparison, compare

    launch = slurm.launcher(args)
    values = grid.parse(args.grid, args.overrides)
    variants = grid.variants(args.backbones, values)
    overrides = args.overrides if args.steps is None else args.overrides | {"steps": args.steps}
    configured = [
        seams.configure(args.task, variant.backbone, args.configs, overrides | variant.options)
        for variant in variants
    ]
    grid.check(zip(variants, configured, strict=True))
    for key in overrides:
        said = [configs.inert(config, [key]) for config in configured]
        if all(said):
            to_stderr(f"run.py: {said[0][0]}")
    for variant, config in zip(variants, configured, strict=True):
        # finished runs too: an earlier version's defaults may have been others
        for run in sorted((folder / variant.folder).glob("seed*")):
            RunFolder(run).refuse_another(config, (*configs.FREE_TO_CHANGE, "seed"))
        loop.check(config)
    first = configured[0]
    sizes, options = (args.seeds, first.steps, folder, args.jobs), (args.configs, args.overrides)
    more = {"threads": first.threads, "grid": values, "launch": launch, "processes": args.processes}
    more["first"] = args.first_seed
    comparison = Comparison(first.task, args.backbones, *sizes, *options, **more)
    comparison.refuse_another()

    def work() -> tuple[dict[str, Any], str]:
        report = compare(comparison)
        return report, f"{table(report)}\nwritten: {folder / 'compare.json'}, compare.csv, compare.png"

    return work


def table(report: Mapping[str, Any]) -> str:
    """The final scores of a comparison, and how probably the first backbone is better than each other."""
    lines = [f"{report['task']}, {report['steps']:,} steps", tables.text(report["results"].items(), COLUMNS)]
    first = next(iter(report["results"]))
    seeds = report["results"][first]["seeds"]
    for pair in report["improvement"]:
        if pair["of"] == first and seeds > 1:
            low, high = pair["interval"]
            lines.append(
                f"a run of {configs.label(first)} ends higher than one of {configs.label(pair['over'])} with "
                f"probability {pair['probability']:.2f} [{low:.2f}, {high:.2f}]"
            )
    if 1 < seeds < FEW:
        lines.append("few runs make narrow intervals: with 3, about 75 in 100 hold the true mean, not 95")
    return "\n".join(lines)


def _return(result: Mapping[str, Any]) -> str:
    low, high = result["interval"]
    return f"{result['return_mean']:.3g}" + f" [{low:.3g}, {high:.3g}]" * (result["seeds"] > 1)


def _steps_to_90(result: Mapping[str, Any]) -> str:
    if result["fraction_of_optimum"] is None or result["steps_to_90_median"] is not None:
        return tables.number(result["steps_to_90_median"], ",.0f")
    reached = sum(step is not None for step in result["steps_to_90"])
    return f"{reached} of {result['seeds']} seeds"


COLUMNS: tables.Columns = {
    "backbone": lambda item: configs.label(item[0]),
    "return [95 % bootstrap interval]": lambda item: _return(item[1]),
    "seeds": lambda item: str(item[1]["seeds"]),
    "of optimum": lambda item: tables.number(item[1]["fraction_of_optimum"], ".2f"),
    "steps to 90 %": lambda item: _steps_to_90(item[1]),
    "seconds": lambda item: tables.number(item[1]["seconds_mean"], ",.0f"),
}
