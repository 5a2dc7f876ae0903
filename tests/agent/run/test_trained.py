"""A trained agent from Python: raw observations, in any process, plays what evaluation plays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import configs
import run
from agent import Agent
from agent.agent import Agent as Learner
from agent.agent import derive_seed
from agent.run.evaluation import EVALUATION_ENVS, evaluate
from agent.run.saved import SavedRun
from envs import Interface, VectorDoor
from envs.episodes import episode_seed

ROOT = Path(__file__).parents[3]
ODD = '''
"""A module that only the process which trains has."""
import gymnasium
import numpy as np
from gymnasium import spaces


class Odd(gymnasium.Env):
    metadata = {"render_modes": []}
    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (2, 12, 12, 1), np.uint8),
            "body": spaces.Dict(pose=spaces.Box(-9, 9, (2,), np.float64), door=spaces.Discrete(3, start=1)),
        }
    )
    action_space = spaces.MultiDiscrete([2, 3], start=[1, -1])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._t += 1
        return self._see(), float(action[0] == 2), self._t == 5, False, {}

    def _see(self):
        camera = np.full((2, 12, 12, 1), 40 * self._t, np.uint8)
        return {"camera": camera, "body": {"pose": np.full(2, self._t / 9), "door": 1 + self._t % 3}}


gymnasium.register("Odd-v0", Odd)
'''
TASKS = {"s4wm": "memory_chain:n=5", "rssm": "Pendulum-v1:max_episode_steps=8", "tssm": "repeat_previous:k=2"}
NESTED = spaces.Dict(b=spaces.Discrete(3, start=2), c=spaces.Box(-1, 1, (2,)))
BOX = spaces.Box(np.array([0.0, -3.0]), np.array([10.0, 3.0]), dtype=np.float64)
KINDS = {
    "nested": (spaces.Dict(a=NESTED), spaces.Discrete(3)),
    "image": (spaces.Box(0, 255, (12, 16, 3), np.uint8), spaces.Discrete(2, start=-1)),
    "stack": (spaces.Box(0, 255, (4, 12, 12), np.uint8), spaces.MultiDiscrete([3, 2], start=[1, 0])),
    "symbol": (spaces.Discrete(5, start=-2), BOX),
    "symbols": (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)),
}


def trained(folder: Path, backbone: str, task: str, *more: str) -> Path:
    options = "--configs debug --steps 64 --eval.every 0 --eval.envs 1 --eval.episodes 1 --log.pictures 0"
    words = [*options.split(), "--backbone", backbone, "--task", task, "--device", "cpu", *more]
    assert run.main([*words, "--logdir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in an environment of a module that is not to be found any more."""
    folder = tmp_path_factory.mktemp("odd")
    module = folder / "odd_of_a_user.py"
    module.write_text(ODD)
    path = trained(folder / "run", "s4wm", f"{module}:Odd-v0")
    module.unlink()
    return path


def untrained(kind: str, task: str = "repeat_previous", backbone: str = "s4wm") -> Agent:
    interface = Interface(*KINDS[kind])
    config = configs.load(task, backbone, ["debug"], {"device": "cpu"})
    return Agent(Learner(*interface.spaces, config), 0, interface, config)


def samples(kind: str, count: int) -> tuple[list, object]:
    """Observations, and the same as gymnasium's vector environments batch them."""
    space = KINDS[kind][0]
    space.seed(3)
    given = [space.sample() for _ in range(count)]
    empty = gymnasium.vector.utils.create_empty_array(space, count)
    return given, gymnasium.vector.utils.concatenate(space, given, empty)


@pytest.mark.parametrize("backbone", TASKS)
def test_a_plain_loop_plays_what_evaluation_plays(backbone: str, tmp_path: Path) -> None:
    folder = trained(tmp_path, backbone, TASKS[backbone])
    wanted = evaluate(SavedRun.of(folder), episodes=3, seed=7)["returns"]
    agent = Agent.load(folder)
    env, returns = agent.make_env(), []
    for episode in range(3):
        observation, _ = env.reset(seed=episode_seed(derive_seed(7, "evaluate"), EVALUATION_ENVS, episode))
        state, over, total = None, False, 0.0
        while not over:
            action, state = agent.predict(observation, state)
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + np.float32(reward), terminated or truncated
        returns.append(float(total))
    assert returns == pytest.approx(wanted, rel=1e-6)
    assert len(set(wanted)) > 1 or backbone != "rssm"
    assert (agent.step, agent.config.backbone) == (64, backbone)


@pytest.mark.filterwarnings("ignore:.*is read as")
def test_another_process_elsewhere_needs_no_environment(odd: Path, tmp_path: Path) -> None:
    text = (
        "import json, sys, numpy as np\n"
        "from agent import Agent\n"
        f"agent = Agent.load({str(odd)!r})\n"
        "see = lambda t: {'camera': np.full((2, 12, 12, 1), 40 * t, np.uint8),\n"
        "                 'body': {'pose': np.full(2, t / 9), 'door': 1 + t % 3}}\n"
        "state, actions = agent.initial_state(), []\n"
        "for t in range(5):\n"
        "    action, state = agent.predict(see(t), state, episode_start=t == 0)\n"
        "    actions.append(action.tolist())\n"
        "dream = agent.imagine(state, [[2, 1], [1, -1]])\n"
        "print(json.dumps([actions, dream.reward.tolist(), dream.observation['body.door'].shape]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    actions, reward, shape = json.loads(done.stdout)
    agent = Agent.load(odd)
    assert all(agent.action_space.contains(np.array(action)) for action in actions)
    assert len(reward) == 2 and shape == [2, 3]
    with pytest.raises(ValueError, match=r"leaf 'body\.door' .* from \[1\] to \[3\], got 0"):
        see = {"camera": np.zeros((2, 12, 12, 1), np.uint8), "body": {"pose": np.zeros(2), "door": 0}}
        agent.predict(see)
    with pytest.raises(ValueError, match="there is no file"):
        agent.make_env()


def test_a_run_of_earlier_code_builds_its_environment_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(tmp_path, "s4wm", TASKS["s4wm"])
    known = Agent.load(folder)
    (folder / "spaces.json").unlink()
    built, init = [], VectorDoor.__init__
    monkeypatch.setattr(VectorDoor, "__init__", lambda self, *args: built.append(1) or init(self, *args))
    agent = Agent.load(folder)
    assert built == [1] and agent.observation_space == known.observation_space
    (folder / "spaces.json").write_text("{}")
    with pytest.raises(ValueError, match="spaces.json: it holds no spaces"):
        Agent.load(folder)


def test_what_cannot_be_loaded_is_said(tmp_path: Path, odd: Path) -> None:
    with pytest.raises(ValueError, match="no run in"):
        Agent.load(tmp_path)
    with pytest.raises(ValueError, match="unknown|cuda"):
        Agent.load(odd, device="gpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*is read as")
def test_a_batch_acts_as_its_rows_do_and_in_the_raw_space(kind: str) -> None:
    agent, (alone, together) = untrained(kind), samples(kind, 4)
    states = [agent.predict(observation)[1] for observation in alone]
    actions, state = agent.predict(together)
    starts = np.array([True, False, True, False])
    again, state = agent.predict(together, state, starts)
    for row, observation in enumerate(alone):
        fresh, _ = agent.predict(observation)
        kept, _ = agent.predict(observation, states[row])
        np.testing.assert_allclose(actions[row], fresh, atol=1e-5)
        np.testing.assert_allclose(again[row], fresh if starts[row] else kept, atol=1e-5)
        assert agent.action_space.contains(fresh) and agent.action_space.contains(actions[row])
        assert np.asarray(fresh).dtype == agent.action_space.dtype


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*is read as")
def test_dreams_are_of_each_leaf_and_row(kind: str) -> None:
    agent, (alone, together) = untrained(kind), samples(kind, 3)
    _, state = agent.predict(together)
    agent.action_space.seed(0)
    actions = np.array([[agent.action_space.sample() for _ in range(4)] for _ in range(3)])
    dream = agent.imagine(state, actions)
    assert dream.reward.shape == dream.continues.shape == (3, 4)
    assert ((dream.continues > 0) & (dream.continues < 1)).all()
    _, one = agent.predict(alone[1])
    single = agent.imagine(one, actions[1, :2])
    np.testing.assert_allclose(single.reward, dream.reward[1, :2], atol=1e-5)
    for name, leaf in agent.interface.observations.leaves.items():
        shown = dream.observation[name]
        assert shown.shape == (3, 4, *leaf.box.shape) and shown.dtype == np.float32
        np.testing.assert_allclose(single.observation[name], shown[1, :2], atol=1e-5)
        codes = getattr(leaf.box, "classes", ())
        if codes or leaf.box.dtype == np.uint8:
            assert shown.min() >= 0 and shown.max() <= 1
        if codes:
            np.testing.assert_allclose(shown.sum(-1), len(codes), rtol=1e-5)
    for wrong in (actions[:2], actions[0], actions[0, 0], actions[:, :0]):
        with pytest.raises(ValueError, match="actions"):
            agent.imagine(state, wrong)


def test_drawing_repeats_and_leaves_the_process_alone() -> None:
    agents = [untrained("nested") for _ in range(2)]
    observation = samples("nested", 1)[0][0]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    drawn = [[agent.predict(observation, deterministic=False)[0] for _ in range(40)] for agent in agents]
    assert torch.equal(before, torch.random.get_rng_state())
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 3
    assert len({int(agents[0].predict(observation)[0]) for _ in range(9)}) == 1


def test_observations_that_do_not_fit_are_named() -> None:
    agent, (alone, together) = untrained("nested"), samples("nested", 2)
    _, state = agent.predict(alone[0])
    for observation, says in (
        ({"a": {"b": 2}}, "leaf 'a.c' does not fit the observation space: 'c' is missing"),
        ({"a": {"b": 2, "c": np.zeros(3)}}, r"leaf 'a.c' .* expected shape \(2,\), got shape \(3,\)"),
        ({"a": {"b": 5, "c": np.zeros(2)}}, r"leaf 'a.b' .* from \[2\] to \[4\], got 5"),
        ({"a": {"b": 2, "c": np.array([0, np.nan])}}, "leaf 'a.c' must be finite"),
        (together, "the state is of 1 observations, got 2"),
        (3, "leaf 'a.b' does not fit"),
    ):
        with pytest.raises(ValueError, match=says):
            agent.predict(observation, state)
    with pytest.raises(ValueError, match=r"episode_start must be one bool or of shape \(1,\), got \(2,\)"):
        agent.predict(alone[0], state, [True, False])
