"""Fit a world model to episodes on disk, without actor and critic. The same command again goes on with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configs
from configs.command_line import Parser, Work, add_configuration, add_run, count, run_of
from studies import tables

if TYPE_CHECKING:
    from agent.run.data import Data

SIZE = "offline"  # the preset where none is named
LONGEST = 2001  # frames of a window that is a whole episode: the longest of the paper
UNUSED = (
    *("task", "steps", "prefill", "train_ratio", "logdir", "compile", "envs", "actors"),
    *("imagination", "explore", "actor_critic", "optimiser.actor_lr", "optimiser.critic_lr"),
    *("eval.envs", "eval.max_steps"),
    *(f"replay.{name}" for name in ("capacity", "online", "consecutive", "initial_state", "state_every")),
    *(f"replay.{name}" for name in ("burn_in", "max_age", "chunk")),
)
"""Options of acting, of behaviour and of replay, which do nothing here."""


def arguments(parser: Parser) -> None:
    """The episodes, how long, where, and the options of the world model."""
    add_run(parser, "folder of the run")
    data = "episodes of one task: folders (of collect, of Memory Maze's offline set) or minari:ID [the run's]"
    parser.add_argument("--data", nargs="+", type=Path, metavar="DIR", help=data)
    task = "task whose environment tells the spaces [the data's; those of others bring their own spaces]"
    parser.add_argument("--task", metavar="TASK", help=task)
    parser.add_argument("--updates", type=count, metavar="N", help="in the whole run [the preset's steps]")
    add_configuration(parser, UNUSED, SIZE)


def prepare(args: argparse.Namespace) -> Work:
    """See `agent.run.fitting.Fitting`; data and options that do not fit are refused here."""
    path = run_of(args)
    options = dict(args.overrides)
    backbone = options.pop("backbone", None)
    configs.load(None, backbone, args.configs, options)  # before torch is there, what is misspelt is said

    from agent.run import machine, seams
    from agent.run.fitting import Fitting
    from agent.run.folder import RunFolder
    from agent.run.session import carry_out

    folder = RunFolder(path)
    saved = folder.saved()
    data = _data(args.data, args.task, folder.data() if saved else None)
    interface = data.interface()
    options |= {"logdir": str(path)} | ({"steps": args.updates} if args.updates else {})
    presets = args.configs or ([] if saved else [SIZE])
    config = seams.configure(data.task, backbone, presets, options, saved, interface)
    lengths = data.lengths()
    if "batch_length" not in options:
        length = saved.batch_length if saved else window(config, max(lengths))
        config = configs.override(config, {"batch_length": length})
    changed = folder.refuse_another(config, fitted=True)
    for line in configs.inert(config, options):
        print(f"run.py: {line}", file=sys.stderr)
    context = data.context or max(1, min(lengths) // 2)
    if context >= min(lengths):
        raise ValueError(f"the context has {context} frames, but an episode has {min(lengths)} only.")
    interface = interface or seams.interface(seams.environments(config), config.seed)
    machine.prepare(config.threads)
    fitting = Fitting(config, folder, data, interface.spaces, set(lengths) == {config.batch_length}, context)
    for each in data.folders:
        fitting.load(each.paths(*each.parts)[0])

    def work() -> tuple[Mapping[str, Any], str]:
        result = carry_out(fitting, interface, ["python", "run.py", "fit", *args.argv], changed)
        return result, summary(config.task, result)

    return work


def _data(given: list[Path] | None, task: str | None, known: Mapping[str, Any] | None) -> Data:
    """The episodes of a run: those it knows, wherever they are now, or new ones."""
    from agent.run.data import Data

    if known is None:
        if not given:
            raise ValueError("name the episodes to fit to: --data DIR, a folder that collect wrote.")
        return Data.of(given, task)
    data = Data.of_json(known)
    if task not in (None, data.task):
        raise ValueError(f"the run was fitted to data of task {data.task!r}, got --task {task!r}.")
    return data.at(given) if given else data


def window(config: configs.Config, longest: int) -> int:
    """The frames of a window: whole episodes, but for what is trained on segments."""
    segments = config.replay.consecutive or config.backbone.partition("_")[0] == "tssm"
    return int(min(config.batch_length, longest) if segments else min(longest, LONGEST))


def summary(task: str, found: Mapping[str, Any]) -> str:
    """What a person wants to read of a world model that was judged on held-out episodes."""
    lines = [
        f"{task} with {configs.label(found['backbone'])}, {found['updates']:,} updates: "
        f"{found['episodes']} held-out episodes, {found['context']} frames observed, "
        f"{len(found['gen_error_by_step'])} imagined",
        f"error of a frame: {found['recon_error']:.4g} reconstructed, {found['gen_error']:.4g} imagined",
    ]
    if found["reward_accuracy_imagined"] is not None:
        inferred, imagined = (
            tables.number(found[f"reward_accuracy_{name}"], ".1%") for name in ("inferred", "imagined")
        )
        lines.append(f"reward of the last frame: {inferred} right inferred, {imagined} imagined")
    return "\n".join([*lines, f"run folder: {found['logdir']}"])
