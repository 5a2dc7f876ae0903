"""The trained agents of docs/agents do what docs/python.md says of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from agent import Agent

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
TABLE = re.findall(
    r"^\| `(docs/agents/\w+)` \| `([^`]+)`.* \| ([\d,]+) \| ([\d.]+) of 1 \| ([\d.]+) MB \|$", PAGE, re.M
)


def test_the_table_has_all_of_them() -> None:
    there = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "agents").iterdir()]
    assert sorted(there) == sorted(folder for folder, *_ in TABLE)


@pytest.mark.parametrize(("folder", "task", "steps", "returned", "size"), TABLE)
def test_an_agent(folder: str, task: str, steps: str, returned: str, size: str) -> None:
    megabytes = sum(path.stat().st_size for path in (ROOT / folder).rglob("*") if path.is_file()) / 1e6
    assert megabytes == pytest.approx(float(size), abs=0.15) and megabytes < 5
    agent = Agent.load(ROOT / folder, device="cpu")
    assert agent.config.task == task and f"{agent.step:,}" == steps
    returns = []
    for seed in range(4):
        env = agent.make_env()
        observation, _ = env.reset(seed=seed)
        state, total, over = None, 0.0, False
        while not over:
            action, state = agent.predict(observation, state)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    assert np.mean(returns) == pytest.approx(float(returned), abs=0.02)
