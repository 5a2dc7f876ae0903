"""Judge a world model by what it foresees of held-out episodes: a context observed, the query imagined."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import configs
import envs
from agent.run import video
from agent.run.data import Data, Episode, held_out, length_of
from agent.run.foresight import PictureOf, Sequences, foresee, sequences, strips
from agent.run.pictures import open_loop_frames
from agent.run.reports import FPS
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, add_device, add_run, add_video, count, run_of
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
    data = "episodes to foresee, as fit takes them [those the run was fitted to, its test part]"
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    parser.add_argument(
        "--context", type=count, metavar="N", help="frames observed [the task's, or half an episode]"
    )
    parser.add_argument(
        "--episodes", type=count, default=EPISODES, metavar="N", help=f"how many at most [{EPISODES}]"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the pictures go [RUN/foresee]")
    add_video(parser, f"the first {SHOWN} episodes")


def prepare(args: argparse.Namespace) -> Work:
    """See `choose` and `judge`."""
    if args.video:
        video.check(args.video)
    run = SavedRun.of(run_of(args), args.device)
    out = writable(args.out or run.folder.path / "foresee", folder=True)
    held = choose(run, args.episodes, args.context, args.data)
    if len(held.paths) < args.episodes:
        print(f"run.py: there are {len(held.paths)} held-out episodes, all of them are used", file=sys.stderr)

    def work() -> tuple[Mapping[str, Any], str]:
        result = judge(run, held, out, args.video)
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
    load = Episode(*run.interface.spaces).load
    load(paths[0])
    return Held(paths, load, context)


def judge(run: SavedRun, held: Held, out: Path | None = None, film: Path | None = None) -> dict[str, Any]:
    """Foresee episodes with the newest world model of a run.

    Writes into `out`, if given, a strip for each of the first episodes: true, reconstructed, imagined from
    the context on, error. It is `<observation>_<episode>.png`, or `view_<episode>.png` where the task says
    how its symbols look. If asked for, a video of the same is written to `film`.

    Returns:
        `Foresight.summary`, with `backbone`, `updates`, `logdir` and `files`.

    Raises:
        configs.Mistake: a video is asked for and there are no pictures.
    """
    agent, _ = run.agent()
    drawn: dict[str, dict[str, Sequences]] = {}
    for path in held.paths[: SHOWN if out or film else 0]:
        drawn[path.stem] = sequences(agent, held.load(path), held.context, _picture_of(run))
    moving = [parts for each in drawn.values() for parts in each.values() if parts[0].ndim == 4]
    if film and not moving:
        seen = ", ".join(next(iter(drawn.values())))
        raise configs.Mistake(f"--video: {run.config.task} shows no picture, only: {seen}.")
    found = foresee(agent, map(held.load, held.paths), held.context).summary()
    files = [
        save(figure, out / f"{key}_{name}.png")
        for name, each in drawn.items()
        if out is not None
        for key, figure in strips(each, held.context).items()
    ]
    if film:
        with video.record(film, FPS) as write:
            for frame in open_loop_frames(moving, held.context):
                write(frame)
        files.append(film)
    return found | {
        "backbone": run.config.backbone,
        "updates": agent.updates,
        "logdir": str(run.folder),
        "files": [str(path) for path in files],
    }


def _picture_of(run: SavedRun) -> PictureOf | None:
    """What draws the symbols of a run's task, where there are any and it can."""
    if not run.has_environment:
        return None
    env = envs.make(run.config.task)
    symbols = "tiles" in env.observation_space.spaces and env.has_wrapper_attr("picture_of")  # type: ignore[attr-defined]
    return env.get_wrapper_attr("picture_of") if symbols else None
