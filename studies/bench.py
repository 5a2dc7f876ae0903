"""Measure the same thing for several backbones, in turn in one process: time, memory, states, overhead."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import configs
from agent.run import loop, machine, seams
from configs.command_line import Parser, Work, add_configuration, count
from replay.files import writable
from studies import components, costs, overhead, parts, states, tables
from studies.plots import SUFFIXES
from studies.timing import Configurations, Result
from worldmodels import model_of


class Measure(NamedTuple):
    """What `--what` names.

    Attributes:
        of: (configurations by name, lengths, repeats) -> entries of the result, `rows` among them.
        columns: the rows as a table.
        note: of a result, what stands below the table.
        draw: writes a picture of a result, None where there is none.
        variants: (configurations by name, lengths) -> the configurations to measure.
    """

    of: Callable[[Configurations, Sequence[int], int], Result]
    columns: tables.Columns
    note: Callable[[Result], str] = lambda _result: ""
    draw: Callable[[Mapping[str, Any], Path], Path] | None = None
    variants: Callable[[Configurations, Sequence[int]], Configurations] = lambda given, _lengths: given


MEASURES = {
    **{what: Measure(partial(costs.measure, what), costs.COLUMNS, draw=costs.draw) for what in costs.CASES},
    "backbones": Measure(components.measure, components.COLUMNS, components.note),
    "overhead": Measure(overhead.measure, overhead.COLUMNS),
    "states": Measure(states.measure, states.COLUMNS, states.note, variants=states.variants),
}

PARTS = Measure(parts.measure, parts.COLUMNS, parts.note)


def arguments(parser: Parser) -> None:
    """What to measure, of which configurations, and how often."""
    what = f"of {', '.join(MEASURES)} [world_model]"
    parser.add_argument("--what", default="world_model", metavar="NAME", help=what)
    parser.add_argument("--parts", action="store_true", help="update: processor time by part of it")
    backbones = f"of {', '.join(configs.backbones())} [all of them; layers: those that have some]"
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help=backbones)
    lengths = "steps a window, where there are windows [the preset's batch_length]"
    parser.add_argument("--lengths", nargs="+", type=count, metavar="N", help=lengths)
    repeats = "timed calls of each; overhead: updates; states: batches [10]"
    parser.add_argument("--repeats", type=count, default=10, metavar="N", help=repeats)
    picture = "draw time and memory against length"
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help=picture)
    add_configuration(parser, without=("backbone", "logdir", "batch_length"))


def prepare(args: argparse.Namespace) -> Work:
    """See `MEASURES`."""
    if args.what not in MEASURES:
        hint = configs.did_you_mean(args.what, MEASURES)
        raise ValueError(f"unknown measure '{args.what}'.{hint} Expected one of {', '.join(MEASURES)}.")
    if args.parts and args.what != "update":
        raise ValueError(f"--parts are those of an update; with it expected --what update, got {args.what}.")
    measure = PARTS if args.parts else MEASURES[args.what]
    if args.picture and not measure.draw:
        what = f"{args.what} --parts" if args.parts else args.what
        raise ValueError(f"--picture draws time and memory against length; {what} has neither.")
    if args.picture:
        writable(args.picture, SUFFIXES)
    overrides = dict(args.overrides)
    task = overrides.pop("task", None)
    names = args.backbones or [
        name for name in configs.backbones() if args.what != "layers" or _layered(name)
    ]
    chosen = {name: seams.configure(task, name, args.configs, overrides) for name in names}
    first = chosen[names[0]]
    lengths = args.lengths or [first.batch_length]
    configurations = measure.variants(chosen, lengths)
    for config in configurations.values():
        loop.check(config)
    machine.prepare(first.threads)

    def work() -> tuple[Result, str]:
        gpu = machine.choose_device(first.device).type == "cuda"
        result = {
            "what": args.what,
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "repeats": args.repeats,
        }
        result |= measure.of(configurations, lengths, args.repeats)
        lines = [
            f"{args.what} on {result['device']}, {result['threads']} threads, torch {result['torch']}, "
            f"{args.repeats} repeats",
            tables.text(result["rows"], measure.columns),
            measure.note(result),
        ]
        if args.picture and measure.draw:
            lines.append(str(measure.draw(result, args.picture)))
        return result, "\n".join(filter(None, lines))

    return work


def _layered(backbone: str) -> bool:
    """Whether a backbone is a stack of layers that it can be given."""
    return "layer" in configs.load(backbone=backbone)[model_of(backbone)]
