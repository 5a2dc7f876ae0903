"""Judge a world model by what it foresees of held-out episodes: a context observed, the query imagined."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import configs
from agent.run import seams, sources, video
from agent.run.data import Episode, length_of
from agent.run.foresight import Sequences, foresee, sequences, strips
from agent.run.pictures import open_loop_frames
from agent.run.reports import FPS
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, add_device, add_episodes, add_run, add_video, run_of
from replay.files import writable
from replay.rows import Rows
from studies import maze_probe
from studies.fit import summary
from studies.plots import save

EPISODES = 100
SHOWN = 2  # episodes that are drawn
CUES = (0, 1, 5, 10, 20)  # true frames after a jump


def arguments(parser: Parser) -> None:
    """The run, the episodes, and where the pictures go."""
    add_run(parser)
    add_device(parser)
    data = "episodes to foresee, as fit takes them [those the run was fitted to, its test part]"
    add_episodes(parser, data, "[the task's, or half an episode]", EPISODES)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the pictures go [RUN/foresee]")
    add_video(parser, f"the first {SHOWN} episodes")


def prepare(args: argparse.Namespace) -> Work:
    """See `choose` and `judge`."""
    if args.video:
        video.check(args.video)
    run = SavedRun.of(run_of(args), args.device)
    out = writable(args.out or run.folder.path / "foresee", folder=True)
    held = choose(run, args.episodes, args.context, args.data)
    if args.data:
        run.say_if_unlike(args.data)
    if len(held.paths) < args.episodes:
        print(f"run.py: there are {len(held.paths)} held-out episodes, all of them are used", file=sys.stderr)

    def work() -> tuple[Mapping[str, Any], str]:
        result = judge(run, held, out, args.video)
        return result, "\n".join([summary(run.config.task, result), *more(result), *result["files"]])

    return work


class Held(NamedTuple):
    """Held-out episodes, and how they are judged.

    Attributes:
        paths, fitted: the episodes, and those that the run was fitted to.
        load: reads one, with the truths that no model is shown.
        context: how many frames are observed.
        jump: the frame at which the agent is put elsewhere, where it is.
    """

    paths: list[Path]
    fitted: list[Path]
    load: Callable[[Path], Rows]
    context: int
    jump: int | None


def choose(run: SavedRun, episodes: int, context: int | None = None, folder: Path | None = None) -> Held:
    """The episodes to judge a run by: of its own test part, or of a folder.

    Args:
        run: a world model fitted to episodes on disk.
        episodes: how many at most.
        context: frames observed; None for the context of the episodes' task or, where it has none, half an
            episode.
        folder: of episodes; None for the run's own.

    Raises:
        ValueError: the run was not fitted to episodes; an episode is missing, damaged, of other spaces, or no
            longer than the context.
    """
    data = run.data
    if data is None:
        raise ValueError(f"{run.folder} holds no world model fitted to episodes on disk; see imagine.")
    paths = data.held_out(folder)[:episodes]
    lengths = [length_of(path) for path in paths]
    record = data.folders[0].record if folder is None else sources.of(folder).record
    context = context or record["context_length"] or max(1, min(lengths) // 2)
    if context >= min(lengths):
        shortest = paths[lengths.index(min(lengths))]
        raise ValueError(
            f"--context must be less than the {min(lengths)} frames of {shortest}, got {context}."
        )
    load = partial(Episode(*run.interface.spaces).load, probes=True)
    load(paths[0])
    return Held(paths, data.paths("train"), load, context, record.get("jump"))


def judge(run: SavedRun, held: Held, out: Path | None = None, film: Path | None = None) -> dict[str, Any]:
    """Foresee episodes with the newest world model of a run.

    Writes into `out`, if given, a strip for each of the first episodes: true, reconstructed, imagined from
    the context on, error. It is `<observation>_<episode>.png`, or `view_<episode>.png` where the task says
    how its symbols look. If asked for, a video of the same is written to `film`.

    Returns:
        `Foresight.summary`, with `backbone`, `updates`, `logdir` and `files`; `parameters` of the `backbone`
        and of the whole `model`, which is the larger the more its heads read. Where the agent is put
        elsewhere, `gen_error_by_cue`: number of true frames seen there -> error of the frames after the most
        of `CUES`; where the episodes tell of a maze, what `maze_probe.judge` returns.

    Raises:
        configs.Mistake: a video is asked for and there are no pictures.
    """
    agent, _ = run.agent()
    picture_of = None
    if run.has_environment:
        picture_of = seams.picture_of(run.config.task, agent.model.decoder.vectors)
    drawn: dict[str, dict[str, Sequences]] = {}
    for path in held.paths[: SHOWN if out or film else 0]:
        drawn[path.stem] = sequences(agent, held.load(path), held.context, picture_of)
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
    if held.jump is not None:
        found["gen_error_by_cue"] = {}
        for cue in CUES:  # always of the same frames, so that only what was seen differs
            each = foresee(agent, map(held.load, held.paths), held.jump + cue).summary()
            late = each["gen_error_by_step"][max(CUES) - cue :]
            found["gen_error_by_cue"][str(cue)] = sum(late) / len(late)
    if set(maze_probe.KEYS) <= held.load(held.paths[0]).keys():
        fitted = held.fitted[: maze_probe.EPISODES]
        found |= maze_probe.judge(agent, map(held.load, fitted), map(held.load, held.paths))
    return found | {
        "backbone": run.config.backbone,
        "updates": agent.updates,
        "parameters": {part: agent.parameter_counts()[part] for part in ("backbone", "model")},
        "logdir": str(run.folder),
        "files": [str(path) for path in files],
    }


def more(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines on what some tasks alone have."""
    if "doors" in found:
        told = f"{found['door_recon_error']:.4g} reconstructed, {found['door_gen_error']:.4g} imagined"
        yield f"error of a door in view: {told} ({found['doors']:,} of them)"
    if "gen_error_by_cue" in found:
        errors = ", ".join(f"{error:.4g} ({cues})" for cues, error in found["gen_error_by_cue"].items())
        yield f"error of a frame imagined after a jump (and true frames seen there): {errors}"
    if "walls_accuracy_mlp" in found:
        for of, form in (("walls_accuracy", ".1%"), ("objects_error", ".3g")):
            told = ", ".join(f"{found[f'{of}_{probe}']:{form}} {probe}" for probe in maze_probe.PROBES)
            yield f"{of.replace('_', ' ')}: {told}"
