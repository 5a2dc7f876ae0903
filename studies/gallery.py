"""The gallery: measured returns of every task, and how it looks.

    python -m studies.gallery [TASK ...] [--speed] [--pictures] [--no-table]

plays each task at random and, where the task has one, by its optimal policy; keeps what was measured in
`docs/gallery/gallery.json` and writes it as a table into docs/environments.md. Named tasks are measured anew,
the others keep what was measured before. `--speed` measures frames a second too, on one core: only on a
machine that is doing nothing else. `--pictures` draws the pictures of the families.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image
from tqdm import tqdm

import envs
from studies import collect

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "environments.md"
FOLDER = ROOT / "docs" / "gallery"
BEGIN, END = "<!-- gallery: begin, by python -m studies.gallery -->", "<!-- gallery: end -->"


@dataclass(frozen=True)
class Row:
    """One task of the gallery, with what cannot be measured.

    `episodes`: how many are played at random, as many as a few minutes allow. `published`: what others got,
    with the source's name.
    """

    task: str
    memory: str
    published: str = "-"
    episodes: int = 100


ROWS: tuple[Row, ...] = (
    Row(
        "memory_chain", "31 steps", "R2I 0.95 or more of successes up to n = 41, DreamerV3 below 0.1 from 21"
    ),
    Row("memory_chain:n=100", "99 steps", "R2I about chance"),
    Row("discounting_chain", "none: credit over 10 steps", "R2I 0.98 of successes, DreamerV3 0.98"),
    Row("discounting_chain:delay=30", "none: credit over 30 steps", "R2I 0.66 of successes, DreamerV3 0"),
    Row("tmaze", "10 steps"),
    Row("tmaze:corridor=100", "100 steps"),
    Row("distracting_memory", "93 steps", "prediction: S4WM 100 %, TSSM 51 %, RSSM 50 %"),
    Row("distracting_memory:width=200", "193 steps", "prediction: S4WM 100 %, TSSM 51 %, RSSM 48 %"),
    Row("distracting_memory:width=400", "393 steps", "prediction: S4WM 100 %, TSSM 51 %, RSSM 52 %"),
    Row("multi_doors_keys", "3 keys, 3 doors", "prediction error: S4WM 0.04, TSSM 1.27, RSSM 5.16"),
    Row("multi_doors_keys:keys=5", "5 keys, 5 doors", "prediction error: S4WM 0.27, TSSM 6.05, RSSM 6.36"),
    Row("multi_doors_keys:keys=7", "7 keys, 7 doors", "prediction error: S4WM 0.10, TSSM 9.24, RSSM 6.28"),
    Row("rooms", "2 rooms, over 301 frames", episodes=5),
    Row("rooms:count=4", "4 rooms, over 501 frames", episodes=5),
    Row("rooms:count=10", "10 rooms, over 1101 frames", episodes=5),
    Row("rooms:teleport=true", "2 rooms, over 301 frames", episodes=5),
    Row("rooms:renderer=mujoco", "2 rooms, over 301 frames", episodes=2),
    Row("memory_maze:9x9", "3 objects, the maze", "human 26.4, oracle 34.8, R2I 33, IMPALA 26.5", 3),
    Row("memory_maze:9x9:fast=true", "3 objects, the maze", episodes=1),
    Row("memory_maze:11x11", "4 objects, the maze", "human 44.3, oracle 58.0, R2I 52, IMPALA 34.5", 2),
    Row("memory_maze:13x13", "5 objects, the maze", "human 55.5, oracle 74.5, R2I 58, IMPALA 36", 1),
    Row("memory_maze:15x15", "6 objects, the maze", "human 67.7, oracle 87.7, R2I 40 to 43, IMPALA 27", 1),
    Row("cartpole_masked", "2 steps"),
    Row("pendulum_masked", "2 steps"),
    Row("acrobot_masked", "2 steps"),
    Row("mountain_car_masked", "2 steps"),
    Row("mountain_car_continuous_masked", "2 steps", episodes=20),
    Row("popgym:RepeatPreviousEasy", "4 cards", "R2I 0.81, DreamerV3 0.08, PPO-GRU 1.0"),
    Row("popgym:RepeatPreviousMedium", "32 cards", "R2I 0.77, DreamerV3 0.13"),
    Row("popgym:RepeatPreviousHard", "64 cards", "R2I 0.75, DreamerV3 -0.50"),
    Row("popgym:RepeatFirstEasy", "1 card"),
    Row("popgym:AutoencodeEasy", "52 cards", "R2I 0.52, DreamerV3 -0.50"),
    Row("popgym:AutoencodeMedium", "104 cards", "R2I 0.45, DreamerV3 -0.40"),
    Row("popgym:ConcentrationEasy", "104 cards", "R2I 0.79, DreamerV3 0.81"),
    Row("popgym:CountRecallEasy", "counts of 2 values"),
    Row("popgym:HigherLowerEasy", "13 counts"),
    Row("popgym:BattleshipEasy", "64 shots"),
    Row("popgym:MineSweeperEasy", "16 squares"),
    Row("popgym:MultiarmedBanditEasy", "10 arms"),
    Row("popgym:PositionOnlyCartPoleEasy", "2 steps"),
    Row("popgym:NoisyPositionOnlyPendulumEasy", "tens of steps"),
    Row("popgym:LabyrinthEscapeEasy", "the way"),
    Row("minigrid:MemoryS7", "10 steps or more", episodes=20),
    Row("minigrid:MemoryS11:observation=symbols", "15 steps or more", episodes=20),
    Row("minigrid:MemoryS17", "20 steps or more", episodes=5),
    Row("dmc:walker_walk", "none", episodes=5),
    Row("dmc:walker_walk:observation=masked", "2 steps", episodes=5),
    Row("dmc:walker_walk:observation=pixels", "2 steps", episodes=1),
    Row("dmc:walker_walk:observation=pixels,fast=true", "2 steps", episodes=1),
)

# Picture -> task, policy.
PICTURES: dict[str, tuple[str, str]] = {
    "memory_chain": ("memory_chain:n=6", "random"),
    "tmaze": ("tmaze:corridor=6", "solution"),
    "distracting_memory": ("distracting_memory:width=16", "script"),
    "multi_doors_keys": ("multi_doors_keys", "script"),
    "rooms": ("rooms:count=4", "script"),
    "rooms_mujoco": ("rooms:count=4,renderer=mujoco", "script"),
    "memory_maze": ("memory_maze:9x9", "random"),
    "minigrid": ("minigrid:MemoryS7", "random"),
    "cartpole_masked": ("cartpole_masked", "random"),
    "dmc": ("dmc:walker_walk:observation=pixels,size=128", "random"),
}
FRAMES, SIDE = 8, 96  # frames of a picture, and pixels of one


def measure(row: Row, speed: bool = False) -> dict[str, Any]:
    """Play a task; return `observation`, `action`, `length`, `random`, `solution`, `optimum`, `frames`.

    `random` is mean and standard deviation of the return over `row.episodes`; `solution` the mean over at
    most 20 episodes of the task's own optimal policy, None where it has none; `frames` the frames a second of
    one environment, over at least a second of stepping, None without `speed`.
    """
    env = envs.make(row.task)
    try:
        played = [_play(env, collect.random, episode) for episode in range(row.episodes)]
        solved = None
        if env.has_wrapper_attr("solution"):
            solved = [_play(env, _solution, episode)[0] for episode in range(min(20, row.episodes))]
        returns = [total for total, _ in played]
        return {
            "observation": _observation(env.observation_space),
            "action": _action(env.action_space),
            "length": [min(length for _, length in played), max(length for _, length in played)],
            "random": [float(np.mean(returns)), float(np.std(returns)), row.episodes],
            "solution": None if solved is None else float(np.mean(solved)),
            "optimum": envs.optimum(row.task),
            "frames": _frames(env) if speed else None,
        }
    finally:
        env.close()


def _solution(env: gymnasium.Env, _episode: int) -> Any:
    actions = env.get_wrapper_attr("solution")()
    stay = 0  # a task may go on after all is done
    return lambda _observation, _is_first: next(actions, stay)


def _play(env: gymnasium.Env, policy: collect.Policy, episode: int) -> tuple[float, int]:
    """Play an episode; return its return and its number of steps."""
    env.set_wrapper_attr("next_episode", episode)
    observation, _ = env.reset()
    act, total, steps, over = policy(env, episode), 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(np.asarray(act(observation, steps == 0))[()])
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, steps


def _frames(env: gymnasium.Env) -> float:
    """Count frames a second with random actions, resets included, for at least a second and one episode."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]
    env.reset()
    begin, steps = time.perf_counter(), 0
    while True:
        *_, terminated, truncated, _ = env.step(actions[steps % 1000])
        steps += 1
        if terminated or truncated:
            if time.perf_counter() - begin > 1:
                return steps / (time.perf_counter() - begin)
            env.reset()


def _observation(space: spaces.Space) -> str:
    assert isinstance(space, spaces.Dict)
    return ", ".join(f"{name} `{list(leaf.shape or ())}`" for name, leaf in space.spaces.items())


def _action(space: spaces.Space) -> str:
    if isinstance(space, spaces.Box):
        return f"Box `{list(space.shape)}`"
    return str(space)


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the gallery as a Markdown table, a line for each of `ROWS`, measured or not."""
    titles = {
        "task": "task",
        "observation": "observation",
        "action": "action",
        "length": "length",
        "memory": "memory demand",
        "optimum": "optimum",
        "solution": "its own optimal policy",
        "random": "random policy (episodes)",
        "published": "published",
        "frames": "frames a second",
    }
    lines = [f"| {' | '.join(titles.values())} |", "|" + "---|" * len(titles)]
    for row in ROWS:
        cells = dict.fromkeys(titles, "-") | {
            "task": f"`{row.task}`",
            "memory": row.memory,
            "random": "not measured yet",
            "published": row.published,
        }
        if row.task in measured:
            got = measured[row.task]
            (low, high), (mean, deviation, episodes) = got["length"], got["random"]
            cells |= {
                "observation": got["observation"],
                "action": got["action"],
                "length": f"{low}" if low == high else f"{low} to {high}",
                "optimum": _number(got["optimum"]),
                "solution": _number(got["solution"]),
                "random": f"{mean:.3g} ± {deviation:.2g} ({episodes})",
                "frames": "-" if got["frames"] is None else f"{got['frames']:,.0f}",
            }
        lines.append(f"| {' | '.join(cells.values())} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def place(text: str, inside: str) -> str:
    """Return a document with the text between the gallery's marks replaced.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}, between which the table goes.")
    return f"{before}{BEGIN}\n{inside}\n{END}{after}"


def picture(task: str, policy: str) -> Image.Image:
    """Return evenly spaced frames of one episode side by side: the observed images, or else rendered ones.

    Args:
        task: as in `envs.make`.
        policy: 'script', 'solution' or 'random'.
    """
    env = envs.make(task)
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
    env.unwrapped.render_mode = "rgb_array"
    drawn = env.unwrapped.render()
    assert isinstance(drawn, np.ndarray)
    return drawn


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, draw, and write table and pictures."""
    parser = argparse.ArgumentParser(prog="python -m studies.gallery", description=main.__doc__)
    names = [row.task for row in ROWS]
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="tasks of the gallery [all]")
    parser.add_argument("--speed", action="store_true", help="measure frames a second; on an idle machine")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of the families")
    parser.add_argument("--no-table", action="store_true", help="measure nothing")
    args = parser.parse_args(argv)
    unknown = [task for task in args.tasks if task not in names]
    if unknown:
        parser.error(f"not in the gallery: {', '.join(unknown)}. It has: {', '.join(names)}.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if args.pictures:
        for name, (task, policy) in tqdm(PICTURES.items(), unit="picture"):
            picture(task, policy).save(FOLDER / f"{name}.png", optimize=True)
    if args.no_table:
        return
    store = FOLDER / "gallery.json"
    measured = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    for row in tqdm([row for row in ROWS if not args.tasks or row.task in args.tasks], unit="task"):
        got = measure(row, args.speed)
        if not args.speed:  # keep what an idle machine measured
            got["frames"] = measured.get(row.task, {}).get("frames")
        measured[row.task] = got
        store.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(place(DOCUMENT.read_text(encoding="utf-8"), table(measured)), encoding="utf-8")


if __name__ == "__main__":
    main()
