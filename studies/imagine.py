"""Draw what a run's world model remembers, and what it foresees of episodes from their actions alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import configs
from agent.agent import Agent
from agent.run import seams, video
from agent.run.evaluation import EVALUATION_ENVS
from agent.run.reports import FPS, memory_times, open_loop
from agent.run.saved import SavedRun
from agent.run.seams import MakeEnvironments
from configs.command_line import Parser, Work, add_device, add_run, add_seed, add_video, count, run_of
from replay.files import writable
from replay.store import Store
from studies.plots import save

EPISODES = 8  # played side by side
SHOWN = 2  # whose predictions are drawn


def arguments(parser: Parser) -> None:
    """The run, how much is played, and where the pictures go."""
    add_run(parser)
    add_device(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the pictures go [RUN/imagine]")
    parser.add_argument("--steps", type=count, default=64, metavar="N", help="steps to play [64]")
    parser.add_argument("--context", type=count, metavar="N", help="of them observed first [half]")
    add_video(parser, "the predictions of pictures")
    add_seed(parser, "of the environments [the run's]")


def prepare(args: argparse.Namespace) -> Work:
    """See `imagine`."""
    context = args.context or max(1, args.steps // 2)
    if context >= args.steps:
        raise ValueError(f"--context must lie between 1 and --steps - 1 = {args.steps - 1}, got {context}.")
    if args.video:
        video.check(args.video)
    run = SavedRun.that_acts(run_of(args), args.device)
    out = writable(args.out or run.folder.path / "imagine", folder=True)
    seed = run.config.seed if args.seed is None else args.seed

    def work() -> tuple[dict[str, Any], str]:
        result = imagine(run, out, args.steps, context, seed, args.video)
        return result, "\n".join(result["files"])

    return work


def imagine(
    run: SavedRun, out: Path, steps: int, context: int, seed: int, film: Path | None = None
) -> dict[str, Any]:
    """Let the newest agent of a run act, then predict what it saw from its actions alone; draw it.

    Writes into `out`:
        open_loop_<observation>_<episode>.png: true, predicted and error, the first `context` steps observed;
            of symbols, where the task can draw them, one named `view`.
        kl_by_step.png: the mean KL of posterior and prior by step since the episode began.
        memory.png: after how many steps each layer's states have decayed to 1/e, if the backbone reports it.

    If asked for, a video of the predicted pictures is written to `film`.

    Played are `steps` rows, from the beginning of an episode; it may end and another begin.

    Returns:
        `step` of the checkpoint, `files` written, `error` by observation (mean squared error of what was
        predicted, images in [0, 1]), `kl` by step since the episode began.

    Raises:
        configs.Mistake: there is no checkpoint, or a video is asked for and no picture is observed.
    """
    agent, step = run.agent()
    report = open_loop(agent, play(agent, run.make_envs, steps, seed), context)
    shown = report.seen(seams.picture_of(run.config.task, report.true))
    frames = shown.frames(SHOWN)
    if film and not frames:
        seen = ", ".join(report.true)
        raise configs.Mistake(
            f"--video: {run.config.task} shows no picture that could be predicted, only: {seen}."
        )
    figures = shown.figures(SHOWN)
    times = memory_times(agent)
    if times:
        figures["memory"] = _draw_times(times, steps)
    files = [save(figure, out / f"{name.replace('/', '_')}.png") for name, figure in figures.items()]
    if film and frames:
        with video.record(film, FPS) as write:
            for frame in frames:
                write(frame)
        files.append(film)
    return {
        "step": step,
        "files": [str(path) for path in files],
        "error": report.errors(),
        "kl": {str(age): value for age, value in report.kl_by_step().items()},
    }


def play(
    agent: Agent, make_envs: MakeEnvironments, steps: int, seed: int, count: int = EPISODES
) -> dict[str, np.ndarray]:
    """Play `steps` rows in each of `count` environments that are not those of training: a batch of replay."""
    envs, played = make_envs(count, seed, EVALUATION_ENVS), Store(count, steps)
    try:
        rows, carry = envs.reset(), agent.initial(count)
        for number in range(steps):
            carry, action = agent.act(carry, rows, evaluate=True, counter=number)
            played.append({**rows, "action": action})
            rows = envs.step(action)
    finally:
        envs.close()
    return played.read(np.arange(count), np.zeros(count, np.int64), steps)


def _draw_times(times: list[np.ndarray], steps: int) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    everything = np.concatenate(times)
    bins = np.geomspace(everything.min() * 0.99, everything.max() * 1.01, 40)
    for number, layer in enumerate(times):
        axes.hist(layer, bins.tolist(), histtype="step", label=f"layer {number}")
    axes.axvline(steps, color="grey", linestyle=":", label="steps played")
    axes.set(xscale="log", xlabel="steps until a state has decayed to 1/e", ylabel="states")
    axes.legend()
    return figure
