"""The video of an evaluation shows each environment's episodes, and stops where they end."""

from pathlib import Path

import numpy as np
import pytest

import configs
import envs
from agent.run.evaluation import run_episodes
from agent.run.film import ENDED, PLAYING, Film, film
from agent.run.video import Tiles
from envs.tasks.tmaze import FORWARD, LEFT
from tests.agent.run.house import Rows
from tests.agent.run.test_video import read


class Walker:
    """Stands in for an agent: environment n waits n steps, walks two on and turns left."""

    def initial(self, count: int) -> np.ndarray:
        return np.zeros(count, int)

    def act(
        self, carry: np.ndarray, rows: Rows, evaluate: bool, counter: int
    ) -> tuple[np.ndarray, np.ndarray]:
        carry = np.where(rows["is_first"], 0, carry + 1)
        waits = np.arange(len(carry))
        return carry, np.where((waits <= carry) & (carry < waits + 2), FORWARD, LEFT)


def filmed(task: str, monkeypatch: pytest.MonkeyPatch, episodes: int, count: int) -> list[list]:
    """What is shown in each frame of an evaluation."""
    shown: list[list] = []
    draw = Tiles.draw

    def keep(self: Tiles, tiles: list) -> np.ndarray:
        shown.append(list(tiles))
        return draw(self, shown[-1])

    monkeypatch.setattr(Tiles, "draw", keep)
    written: list[np.ndarray] = []
    made = Film(lambda fps: written.append, task)
    make = lambda number, seed, first: envs.make_vector(task, number, seed, "sync", first, render=True)  # noqa: E731
    run_episodes(Walker(), make, episodes, count, 0, 1000, film=made)  # type: ignore[arg-type]
    assert len(written) == len(shown) and len({frame.shape for frame in written}) == 1
    return shown


def test_every_step_until_the_last_episode_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps and four; what ended stays, darker, while the other goes on."""
    shown = filmed("tmaze:corridor=2", monkeypatch, 2, 2)
    assert [[colour for _, _, colour in tiles] for tiles in shown] == [[PLAYING] * 2] * 4 + [[ENDED, PLAYING]]
    assert [tiles[1][1].split("  ")[0] for tiles in shown] == [f"step {step}" for step in range(5)]
    returns = {tiles[1][1].split("  ")[1] for tiles in shown[:4]}
    assert returns == {"return 0"} and shown[3][0][1] == shown[4][0][1]
    np.testing.assert_array_equal(shown[4][0][0], shown[3][0][0] // 5 * 3)
    env = envs.make("tmaze:corridor=2", 0, 100_000, render=True)
    env.reset()
    np.testing.assert_array_equal(shown[0][0][0], env.render())


def test_one_environment_plays_several_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = filmed("tmaze:corridor=2", monkeypatch, 2, 1)
    steps = [tiles[0][1].split("  ")[0] for tiles in shown]
    assert steps == [f"step {step}" for step in (0, 1, 2, 3, 0, 1, 2, 3)]


def test_no_more_than_fit_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments 0 to 15, the last of which takes 3 + 15 steps; the others go on unseen."""
    shown = filmed("tmaze:corridor=2,limit=99", monkeypatch, 18, 18)
    assert {len(tiles) for tiles in shown} == {16}
    assert len(shown) == 1 + 3 + 15


def test_a_picture_that_is_observed_will_do(outside_pictures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment draws nothing; other than three channels are grey."""
    shown = filmed(outside_pictures, monkeypatch, 1, 1)
    assert [int(tiles[0][0][0, 0, 0]) for tiles in shown] == [0, 1, 2, 3]
    assert shown[0][0][0].shape == (12, 9, 3)


@pytest.fixture
def outside_pictures(tmp_path: Path) -> str:
    (tmp_path / "grey_pictures.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Grey(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(0, 255, (12, 9), np.uint8)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        self.t = 0\n"
        "        return np.full((12, 9), self.t, np.uint8), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        return np.full((12, 9), self.t, np.uint8), 0.0, self.t == 3, False, {}\n"
        "gymnasium.register('GreyPictures-v0', Grey)\n"
    )
    return f"{tmp_path}/grey_pictures.py:GreyPictures-v0"


def test_where_there_is_nothing_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"obs/card": np.zeros((2, 4), np.float32), "reward": np.zeros(2)}
    blind = type("Blind", (), {"render": lambda self: None, "fps": 10.0})()
    with pytest.raises(configs.Mistake, match=r"no video of X: .* no picture is observed \(card \[4\]\)"):
        Film(lambda fps: lambda frame: None, "X").add(blind, rows, [True] * 2, np.zeros(2), np.zeros(2))


def test_a_failure_is_a_mistake_at_the_first_frame_only() -> None:
    """A package that is missing is the user's to install; later it is the environment's failure."""

    def fail(self: object) -> None:
        raise envs.EnvironmentFailure("pygame is not installed")

    broken = type("Broken", (), {"render": fail, "fps": 10.0})()
    given = {"reward": np.zeros(1)}, [True], np.zeros(1), np.zeros(1)
    made = Film(lambda fps: lambda frame: None, "X")
    with pytest.raises(configs.Mistake, match="no video of X: pygame is not installed"):
        made.add(broken, *given)
    sees = type("Sees", (), {"render": lambda self: [np.zeros((4, 4, 3), np.uint8)], "fps": 10.0})()
    made.add(sees, *given)
    with pytest.raises(envs.EnvironmentFailure):
        made.add(broken, *given)


def test_the_last_frame_stays_for_a_second(tmp_path: Path) -> None:
    sees = type("Sees", (), {"render": lambda self: [np.full((40, 40, 3), 9, np.uint8)], "fps": 5.0})()
    with film(tmp_path / "a.gif", "X") as made:
        made.add(sees, {"reward": np.zeros(1)}, [True], np.zeros(1), np.zeros(1))
    found = read((tmp_path / "a.gif").read_bytes())
    assert len(found) == 1 + 5 and all((frame == found[0]).all() for frame in found)
