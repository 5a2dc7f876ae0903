"""Measure the returns of every task at random and by its own optimal policy, and show how the tasks look.

What was measured is kept in docs/gallery/gallery.json and written into docs/environments.md, whose marks say
which tasks a table has. Named tasks are measured anew, the others keep what was measured before. The tasks
are those of gallery.yaml.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image
from tqdm import tqdm

import envs
from configs import blocks
from configs.command_line import Parser, Work
from replay.files import atomic, publish
from studies import collect, tables

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "environments.md"
FOLDER = ROOT / "docs" / "gallery"
PLACE = re.compile("(<!-- gallery: begin (.*?) -->\n).*?(\n<!-- gallery: end -->)", re.DOTALL)
FRAMES, SIDE = 8, 96  # frames of a picture, and pixels of one


@dataclass(frozen=True)
class Row:
    """One task, with what cannot be measured: see gallery.yaml."""

    task: str
    memory: str
    published: str = "-"
    episodes: int = 100


_DATA = blocks.parse(Path(__file__).with_suffix(".yaml"))
ROWS = [Row(task, **given) for task, given in _DATA["tasks"].items()]
PICTURES: dict[str, tuple[str, str]] = {name: tuple(given) for name, given in _DATA["pictures"].items()}


def arguments(parser: Parser) -> None:
    """Which tasks, and what of them."""
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="tasks of the gallery [all]")
    speed = "measure frames a second, too, on one core: only on a machine that does nothing else"
    parser.add_argument("--speed", action="store_true", help=speed)
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of the families")
    parser.add_argument("--no-table", action="store_true", help="measure nothing")


def prepare(args: argparse.Namespace) -> Work:
    """See `measure` and `picture`."""
    names = [row.task for row in ROWS]
    unknown = [task for task in args.tasks if task not in names]
    if unknown:
        raise ValueError(f"not in the gallery: {', '.join(unknown)}. It has: {', '.join(names)}.")
    chosen = [row for row in ROWS if not args.no_table and (not args.tasks or row.task in args.tasks)]
    pictures = PICTURES if args.pictures else {}

    def work() -> tuple[dict[str, Any], str]:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, (task, policy) in tqdm(pictures.items(), unit="picture"):
            with atomic(FOLDER / f"{name}.png", "a picture") as temporary:
                picture(task, policy).save(temporary, optimize=True)
        store = FOLDER / "gallery.json"
        measured = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        for row in tqdm(chosen, unit="task"):
            got = measure(row, args.speed)
            if not args.speed:  # keep what an idle machine measured
                got["frames"] = measured.get(row.task, {}).get("frames")
            measured[row.task] = got
            publish(store, json.dumps(measured, indent=1) + "\n", "the gallery")
        if chosen:
            publish(DOCUMENT, place(DOCUMENT.read_text(encoding="utf-8"), measured), "the gallery")
        done = {"pictures": list(pictures), "tasks": [row.task for row in chosen]}
        return done, f"{len(pictures)} pictures in {FOLDER}, {len(chosen)} tasks measured in {DOCUMENT}"

    return work


def measure(row: Row, speed: bool = False) -> dict[str, Any]:
    """Play a task.

    Returns:
        `length` (of episodes, least and most), `random` (mean and deviation of the return, number of
        episodes), `solution` (mean over at most 20 episodes of the task's own optimal policy, None where it
        has none), `optimum`, and `frames` (a second of one environment, over at least a second of stepping,
        None without `speed`).
    """
    env = envs.make(row.task)
    try:
        played = [collect.play(env, collect.random, episode)["reward"] for episode in range(row.episodes)]
        returns, steps = [_sum(rewards) for rewards in played], [len(rewards) - 1 for rewards in played]
        solved = None
        if env.has_wrapper_attr("solution"):
            episodes = range(min(20, row.episodes))
            solved = float(np.mean([_sum(collect.play(env, _solution, n)["reward"]) for n in episodes]))
        return {
            "length": [min(steps), max(steps)],
            "random": [float(np.mean(returns)), float(np.std(returns)), row.episodes],
            "solution": solved,
            "optimum": envs.optimum(row.task),
            "frames": _frames(env) if speed else None,
        }
    finally:
        env.close()


def _sum(rewards: np.ndarray) -> float:
    return float(rewards.astype(np.float64).sum())


def _solution(env: gymnasium.Env, _episode: int) -> collect.Act:
    actions = env.get_wrapper_attr("solution")()
    stay = 0  # a task may go on after all is done
    return lambda _observation, _is_first: next(actions, stay)


def _frames(env: gymnasium.Env) -> float:
    """Frames a second with random actions, resets included, over at least a second and whole episodes."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]
    begin, steps, over = time.perf_counter(), 0, True
    while not over or time.perf_counter() - begin < 1:
        if over:
            env.reset()
        *_, terminated, truncated, _ = env.step(actions[steps % 1000])
        steps, over = steps + 1, terminated or truncated
    return steps / (time.perf_counter() - begin)


def _measured(cell: Callable[[Any], str], missing: str = "-") -> Callable[[Any], str]:
    """A cell of what was measured of a row, of pairs of both."""
    return lambda pair: cell(pair[1]) if pair[1] else missing


COLUMNS: tables.Columns = {
    "task": lambda pair: f"`{pair[0].task}`",
    "length": _measured(lambda got: " to ".join(map(str, sorted(set(got["length"]))))),
    "memory demand": lambda pair: pair[0].memory,
    "optimum": _measured(lambda got: tables.number(got["optimum"])),
    "random policy (episodes)": _measured(
        lambda got: "{:.3g} ± {:.2g} ({})".format(*got["random"]), "not measured yet"
    ),
    "published": lambda pair: pair[0].published,
    "frames a second": _measured(lambda got: tables.number(got["frames"], ",.0f")),
}


def table(measured: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> str:
    """A Markdown table of the tasks with these first names, without the columns that none of them fills."""
    pairs = [(row, measured.get(row.task)) for row in ROWS if row.task.split(":")[0] in names]
    filled = {name: cell for name, cell in COLUMNS.items() if any(cell(pair) != "-" for pair in pairs)}
    return tables.markdown(pairs, filled)


def place(text: str, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """A document with a table between each pair of marks; a ValueError where a task is between none."""
    names = [name for marks in PLACE.finditer(text) for name in marks[2].split()]
    missing = {row.task.split(":")[0] for row in ROWS}.difference(names)
    if missing:
        raise ValueError(f"the document has no marks '<!-- gallery: begin NAMES -->' with {sorted(missing)}.")
    return PLACE.sub(lambda marks: f"{marks[1]}{table(measured, marks[2].split())}{marks[3]}", text)


def picture(task: str, policy: str) -> Image.Image:
    """Evenly spaced frames of one episode side by side: the observed images, or else rendered ones.

    The policy is 'script', 'solution' or 'random'.
    """
    env = envs.make(task, render=True)
    try:
        observation, _ = env.reset()
        actions = None if policy == "random" else env.get_wrapper_attr(policy)()
        env.action_space.seed(0)
        frames, over = [_frame(env, observation)], False
        while not over:
            action = env.action_space.sample() if actions is None else next(actions)
            observation, _, terminated, truncated, _ = env.step(np.asarray(action)[()])
            frames.append(_frame(env, observation))
            over = terminated or truncated
    finally:
        env.close()
    chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    strip = Image.new("RGB", (len(chosen) * (SIDE + 4) - 4, SIDE), "white")
    for number, frame in enumerate(chosen):
        tile = Image.fromarray(frames[frame]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        strip.paste(tile, (number * (SIDE + 4), 0))
    return strip


def _frame(env: gymnasium.Env, observation: Mapping[str, np.ndarray]) -> np.ndarray:
    if "image" in observation:
        return observation["image"]
    drawn = env.render()
    assert isinstance(drawn, np.ndarray)
    return drawn
