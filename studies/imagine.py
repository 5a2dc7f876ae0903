"""What a trained world model remembers and foresees, as pictures: `python run.py imagine --logdir DIR`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from agent import pictures
from agent.agent import Agent
from agent.evaluation import EVALUATION_ENVS, load_agent
from studies.plots import save

EPISODES = 8  # played side by side
SHOWN = 2  # whose predictions are drawn


def imagine(
    config: Mapping[str, Any],
    make_envs: Callable[[int, int, int], Any],
    logdir: Path,
    out: Path,
    steps: int,
    context: int,
    seed: int,
) -> dict[str, Any]:
    """Let the newest agent of a run act, then predict what it saw from its actions alone; draw it.

    Writes into `out`:
        open_loop_<observation>_<episode>.png: true, predicted and error, the first `context` steps observed.
        kl_by_step.png: the mean KL of posterior and prior by step since the episode began.
        memory.png: after how many steps each layer's states have decayed to 1/e, if the backbone reports it.

    Arguments:
        steps: rows to play, from the beginning of an episode; it may end and another begin.
        context: how many of them are observed before prediction begins.

    Returns: `step` of the checkpoint, `files` written, `error` by observation (mean squared error of what was
        predicted, images in [0, 1]), `kl` by step since the episode began.

    Raises ValueError if there is no checkpoint, or no step is left to predict.
    """
    if not 0 < context < steps:
        raise ValueError(f"--context must lie between 1 and --steps - 1 = {steps - 1}, got {context}.")
    agent, step = load_agent(config, make_envs, logdir, seed)
    report = agent.open_loop(batch := play(agent, make_envs, steps, seed), context)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for key, true in report["true"].items():
        for row in range(SHOWN):
            drawn = pictures.open_loop_picture(true[row], report["predicted"][key][row], context)
            files.append(out / f"open_loop_{key.replace('/', '.')}_{row}.png")
            Image.fromarray(drawn).save(files[-1])
    kl = pictures.kl_by_step(report["kl"], batch["is_first"])
    files.append(save(_draw_kl(kl), out / "kl_by_step.png"))
    times = [layer.detach().cpu().numpy() for layer in agent.backbone.memory_times()]
    if times:
        files.append(save(_draw_times(times, steps), out / "memory.png"))
    return {
        "step": step,
        "files": [str(path) for path in files],
        "error": {
            key: float(np.square(report["predicted"][key] - true)[:, context:].mean())
            for key, true in report["true"].items()
        },
        "kl": {str(age): value for age, value in kl.items()},
    }


def play(
    agent: Agent, make_envs: Callable[[int, int, int], Any], steps: int, seed: int, count: int = EPISODES
) -> dict[str, np.ndarray]:
    """Play `steps` rows in each of `count` environments that training has not seen.

    Returns them as a batch of replay, [B,T,...].
    """
    envs = make_envs(count, seed, EVALUATION_ENVS)
    try:
        rows, carry, played = envs.reset(), agent.initial(count), []
        before = np.zeros_like(agent.codec.decode(carry.action))
        for number in range(steps):
            first = rows["is_first"].reshape(-1, *[1] * (before.ndim - 1))
            played.append({**rows, "action": np.where(first, 0, before)})  # the action that led into the row
            carry, before = agent.act(carry, rows, evaluate=True, counter=number)
            rows = envs.step(before)
    finally:
        envs.close()
    return {key: np.stack([row[key] for row in played], 1) for key in played[0]}


def _draw_kl(kl: Mapping[int, float]) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(kl), list(kl.values()), marker=".")
    axes.set(xlabel="steps since the episode began", ylabel="KL of posterior and prior, nats", ylim=(0, None))
    return figure


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
