"""Playing beside a dream: what is shown, what keys do, and how the terminal is left."""

import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

import run
from agent.run.evaluation import EVALUATION_ENVS
from agent.run.pictures import BAR, bars
from agent.run.saved import SavedRun
from studies.play import Game, action_of
from tests.studies.conftest import Call, Refused, Train

TASK = "memory_chain:n=5"


class Person:
    """Somebody at a pseudo terminal, who types all at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch, self.seen = monkeypatch, b""
        self.master, self.slave = pty.openpty()

    def _read(self) -> None:
        while not self.seen.endswith(b"END"):
            self.seen += os.read(self.master, 65536)

    def play(self, keys: bytes, *words: object) -> str:
        """What the command shows; the terminal has to be as before."""
        reader, before = threading.Thread(target=self._read), termios.tcgetattr(self.slave)
        reader.start()
        os.write(self.master, keys)
        with open(self.slave, closefd=False) as typed, open(self.slave, "w", closefd=False) as shown:
            self.patch.setattr(sys, "stdin", typed)
            self.patch.setattr(sys, "stdout", shown)
            code = run.main(["play", *map(str, words)])
            shown.write("END")
        reader.join(20)
        assert code == 0 and termios.tcgetattr(self.slave) == before
        return self.seen.decode()


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    somebody = Person(monkeypatch)
    yield somebody
    os.close(somebody.master)
    os.close(somebody.slave)


def test_keys_act_until_q(train: Train, person: Person) -> None:
    """Arrows and digits act, other keys do nothing, o lets the model see; the screen is given back."""
    shown = person.play(b"1\x1b[Dx7d0o1q", train("s4wm", TASK), "--keys", "--context", "2")
    assert "6 steps, 3 of them dreamt" in shown  # the third to fifth frame; then it observes again
    assert shown.count("\x1b[H") == 6 and "▀" in shown
    assert shown.index("\x1b[?1049h") < shown.index("▀") < shown.index("\x1b[?1049l")
    assert re.findall(r"last action (\d)", shown) == ["0", "1", "0", "1", "0", "1"]


def test_the_agent_acts_until_ctrl_c(
    train: Train, person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was played until then is in the video."""

    def interrupted(game: Game, given: None, act: Callable = Game.act) -> None:
        if game.count == 3:
            raise KeyboardInterrupt
        act(game, given)

    monkeypatch.setattr(Game, "act", interrupted)
    film = tmp_path / "film.gif"
    shown = person.play(b"", train("rssm", "rooms"), "--context", "1", "--video", film)
    assert "3 steps, 2 of them dreamt" in shown and f"video: {film}" in shown
    image = Image.open(film)
    assert image.n_frames == 3 and image.size[0] == 2 * 128 + 4


def test_without_a_terminal(train: Train, tmp_path: Path, call: Call) -> None:
    """A video needs none; of vectors, bars are shown."""
    result = call(
        "play", train("s4wm", TASK), "--steps", "8", "--context", "3", "--video", tmp_path / "a.gif"
    )
    assert (result["steps"], result["dreamt"], len(result["returns"])) == (8, 4, 1) and result["error"] > 0
    assert Image.open(tmp_path / "a.gif").n_frames == 8


def test_the_dream_sees_nothing(train: Train) -> None:
    """Given the same actions it is the same, whatever is true; while observing it is the filtered state."""
    saved = SavedRun.of(train("s4wm", TASK))
    agent, _ = saved.agent()
    seen = {}
    for change in (1.0, 0.5):
        envs = saved.make_envs(1, 0, EVALUATION_ENVS)
        game = Game(agent, envs, context=2)
        moments = []
        for step in range(5):
            if step >= 2:
                game.rows["obs/vector"] *= np.float32(change)
            moments.append(game.look())
            game.act(np.array(1))
        envs.close()
        seen[change] = moments
    same, other = seen.values()
    assert [moment.dreamt for moment in same] == [False, False, True, True, True]
    for one, two in zip(same, other, strict=True):
        told = [moment.more[1].partition("the model's")[2] for moment in (one, two)]
        assert told[0] == told[1] and (one.pictures[1] == two.pictures[1]).all()
    assert other[3].error != same[3].error


def test_bars_by_hand() -> None:
    picture = (bars(np.array([1.0, -0.5, 0.0]), 2.0) == BAR).all(-1)
    assert picture.shape == (12, 41)
    assert [np.flatnonzero(picture[line]).tolist() for line in (0, 4, 8)] == [
        list(range(20, 31)),
        list(range(15, 21)),
        [20],
    ]
    assert bars(np.zeros(1000), 1.0).shape[0] <= 4 * 64


def test_actions_of_keys() -> None:
    turns = spaces.Discrete(3)
    found = [action_of(key, turns) for key in ("0", "left", "d", "up", "down", "3", "x", "²")]
    assert found == [0, 0, 1, 2, *[None] * 4]
    assert action_of("0", spaces.MultiDiscrete([2, 2])) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no terminal to show frames in; --video FILE needs none"),
        (["--keys"], "no terminal to read keys"),
    ],
)
def test_no_terminal_is_a_mistake(words: list[str], said: str, refused: Refused) -> None:
    assert said in refused("play", "runs/any", *words)
