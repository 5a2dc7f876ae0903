"""Judge a world model by what it foresees of held-out episodes: a context observed, the query imagined."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.run import seams
from agent.run.data import Data, Episode, held_out, length_of
from agent.run.foresight import foresee, strips
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, add_device, add_run, count, run_of
from replay.files import writable
from replay.rows import Rows
from studies.fit import summary
from studies.plots import save

EPISODES = 100
SHOWN = 2  # episodes that are drawn


def arguments(parser: Parser) -> None:
    """The run, the episodes, and where the pictures go."""
    add_run(parser)
    add_device(parser)
    data = "episodes to foresee: a folder that collect wrote [those the run was fitted to, its test part]"
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    parser.add_argument(
        "--context", type=count, metavar="N", help="frames observed [the task's, or half an episode]"
    )
    parser.add_argument(
        "--episodes", type=count, default=EPISODES, metavar="N", help=f"how many at most [{EPISODES}]"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the pictures go [RUN/foresee]")


def prepare(args: argparse.Namespace) -> Work:
    """See `choose` and `judge`."""
    run = SavedRun.of(run_of(args), args.device)
    out = writable(args.out or run.folder.path / "foresee", folder=True)
    held = choose(run, args.episodes, args.context, args.data)
    if len(held.paths) < args.episodes:
        print(f"run.py: there are {len(held.paths)} held-out episodes, all of them are used", file=sys.stderr)

    def work() -> tuple[Mapping[str, Any], str]:
        result = judge(run, held, out)
        return result, "\n".join([summary(run.config.task, result), *result["files"]])

    return work


class Held(NamedTuple):
    """Held-out episodes, what reads one, and how many frames of each are observed."""

    paths: list[Path]
    load: Callable[[Path], Rows]
    context: int


def choose(run: SavedRun, episodes: int, context: int | None = None, folder: Path | None = None) -> Held:
    """The episodes to judge a run by: of its own test part, or of a folder.

    Args:
        run: a world model fitted to episodes on disk.
        episodes: how many at most.
        context: frames observed; None for the task's context or, where it has none, half an episode.
        folder: of episodes; None for the run's own.

    Raises:
        ValueError: the run was not fitted to episodes; an episode is missing, damaged, of other spaces, or no
            longer than the context.
    """
    known = run.folder.data()
    if known is None:
        raise ValueError(f"{run.folder} holds no world model fitted to episodes on disk; see imagine.")
    data = Data.of_json(known)
    paths = (data.paths("test") if folder is None else held_out(folder, data))[:episodes]
    lengths = [length_of(path) for path in paths]
    context = context or data.context or max(1, min(lengths) // 2)
    if context >= min(lengths):
        shortest = paths[lengths.index(min(lengths))]
        raise ValueError(
            f"--context must be less than the {min(lengths)} frames of {shortest}, got {context}."
        )
    load = Episode(*seams.spaces(run.make_envs, run.config.seed)).load
    load(paths[0])
    return Held(paths, load, context)


def judge(run: SavedRun, held: Held, out: Path | None = None) -> dict[str, Any]:
    """Foresee episodes with the newest world model of a run.

    Writes into `out`, if given, a strip for each of the first episodes: true, reconstructed, imagined from
    the context on, error. It is `<observation>_<episode>.png`, or `view_<episode>.png` where the task says
    how its symbols look.

    Returns:
        `Foresight.summary`, with `backbone`, `updates`, `logdir` and `files`.
    """
    agent, _ = run.agent()
    picture_of = seams.picture_of(run.config.task, agent.model.decoder.vectors)
    found = foresee(agent, map(held.load, held.paths), held.context).summary()
    files = [
        save(figure, out / f"{key}_{path.stem}.png")
        for path in held.paths[:SHOWN]
        if out is not None
        for key, figure in strips(agent, held.load(path), held.context, picture_of).items()
    ]
    return found | {
        "backbone": run.config.backbone,
        "updates": agent.updates,
        "logdir": str(run.folder),
        "files": [str(path) for path in files],
    }
