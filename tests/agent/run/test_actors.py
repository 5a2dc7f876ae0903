"""Acting apart from learning: what arrives in the replay, and what becomes of actors that die or fail."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import configs
import envs
from agent.agent import Agent
from agent.run import checkpoint
from agent.run.actors import Actors, Permit
from agent.run.folder import RunFolder
from agent.run.loop import Training
from envs import EnvironmentFailure
from tests.agent.run.house import configure, metrics_of
from worldmodels import ranks

TASK = "memory_chain:n=3"


def training(logdir: Path, task: str = TASK, **changed: Any) -> Training:
    """With two actors, each with two environments."""
    given = {
        "envs__count": 4,
        "actors__count": 2,
        "eval__every": 0,
        "eval__episodes": 2,
        "replay__chunk": 512,
    }
    config = configs.Config(configure(**given | changed).to_dict() | {"task": task, "logdir": str(logdir)})
    logdir.mkdir(exist_ok=True)
    return Training(config, RunFolder(logdir))


def play(stream: int, rows: dict[str, np.ndarray], first: int = 0) -> int:
    """Play an environment's stored rows again, from an episode on; how many episodes began."""
    env, episode = envs.make(TASK, 0, stream), first
    for row in range(len(rows["reward"])):
        if rows["is_first"][row]:
            env.set_wrapper_attr("next_episode", episode)
            shown, reward, ended, cut = env.reset()[0], 0.0, False, False
            episode += 1
        else:
            shown, reward, ended, cut, _ = env.step(rows["action"][row - 1])
        for key, value in shown.items():
            np.testing.assert_array_equal(rows[f"obs/{key}"][row], value)
        assert rows["reward"][row] == np.float32(reward)
        assert rows["is_terminal"][row] == ended and rows["is_last"][row] >= (ended or cut)
    return episode - first


def test_what_actors_collect_is_what_environments_show(tmp_path: Path) -> None:
    """Row by row, with an actor killed on the way: none is torn, moved or lost but for the open episodes."""
    run = training(tmp_path)

    def kill(metrics: dict, step: int) -> None:
        if step >= 70 and not run.collector.restarted:
            run.collector._actors[1].process.kill()

    run.callback = kill
    with pytest.warns(UserWarning, match=f"{TASK}: actor 1 lost its process with exit code -9"):
        result = run.run()
    steps, batch = result["steps"], 4 * 8
    assert 150 <= steps < 154
    assert (steps - 64) * 4 / batch - 2 < result["updates"] <= (steps - 60) * 4 / batch
    assert [line["env/restarts"] for line in metrics_of(tmp_path) if "env/restarts" in line] == [1]
    saved = checkpoint.load_newest(tmp_path)
    stored = {key.removeprefix("rows/"): value for key, value in saved.replay_state.items() if "rows/" in key}
    cut = stored["is_last"] & ~stored["is_terminal"]
    assert cut[:2].sum() == 0 and cut[2:].sum() <= 2
    for stream in range(4):
        begun = play(stream, {key: value[stream] for key, value in stored.items()})
        assert begun == stored["is_first"][stream].sum() == saved.loop_state["episodes"][stream] + 1
    assert not run.collector._actors

    # gone on with in the loop, in new episodes
    assert training(tmp_path, steps=180, actors__count=0).run()["steps"] >= 180
    longer = checkpoint.load_newest(tmp_path)
    assert longer.loop_state["episodes"][0] > saved.loop_state["episodes"][0] and longer.loop_state["envs"]


def test_what_an_environment_raises_in_an_actor_ends_the_run_after_it_is_saved(tmp_path: Path) -> None:
    run = training(tmp_path, "tests.faults.faulty:Faulty-v0:fault=step,at=20", actors__count=1)
    with pytest.raises(EnvironmentFailure, match="ZeroDivisionError: scripted in step") as raised:
        run.run()
    notes = "".join(raised.value.__notes__)
    assert "in actor 0:\nTraceback" in notes and "All is saved at step" in notes
    assert checkpoint.load_newest(tmp_path).step == 4 * 19


def test_environments_are_divided_evenly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the 4 environments .* 3 actors: make envs.count a multiple"):
        training(tmp_path, actors__count=3)


@pytest.mark.parametrize("backbone", configs.backbones())
def test_the_tensors_that_an_actor_is_given_are_all_it_acts_by(backbone: str) -> None:
    seen, taken = spaces.Dict(x=spaces.Box(-1, 1, (2,))), spaces.Box(-1, 1, (2,))
    one, other = (Agent(seen, taken, configure(backbone, seed=seed)) for seed in (1, 2))
    other.seed = one.seed
    for mine, given in zip(other.acting_tensors(), one.acting_tensors(), strict=True):
        mine.copy_(given)
    rows = {"obs/x": np.full((3, 2), 0.5, np.float32), "is_first": np.zeros(3, bool)}
    (_, actions), (_, same) = (agent.act(agent.initial(3), rows) for agent in (one, other))
    np.testing.assert_array_equal(actions, same)


def test_continuous_actions_and_a_policy_that_may_be_older(tmp_path: Path) -> None:
    run = training(tmp_path, "Pendulum-v1", steps=120, actors__count=1, actors__lag=3, eval__max_steps=5)
    published = []
    publish = run.collector._publish
    run.collector._publish = lambda: (published.append(run.agent.updates), publish())
    run.run()
    assert published == [*range(0, run.agent.updates + 1, 3)] and len(published) > 2
    assert isinstance(run.collector.interface.spaces[1], gymnasium.spaces.Box)


def test_random_actions_do_not_repeat_where_episodes_begin(tmp_path: Path) -> None:
    """A row that begins an episode is no step, so that of permits given ahead two may be of the same one."""
    changed = {"envs__count": 1, "actors__count": 1, "steps": 50, "eval__max_steps": 5}
    training(tmp_path, "Pendulum-v1:max_episode_steps=4", **changed).run()
    stored = checkpoint.load_newest(tmp_path).replay_state
    taken = stored["rows/action"][0][~stored["rows/is_last"][0]]
    assert stored["rows/is_first"].sum() > 5 and len(np.unique(taken)) == len(taken) > 40


def test_permits_count_the_steps_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill ends by the job's steps: a rank that counted its own would act at random for longer."""
    monkeypatch.setattr(ranks, "place", lambda: (1, 3))
    permitted: list[Permit] = []
    collector = SimpleNamespace(
        num_envs=4,
        ahead=3,
        _permitted=7,
        _taken=7,
        _agent=SimpleNamespace(acts=0),
        _replay=SimpleNamespace(wants_state=lambda _ahead: False),
        _actors=[SimpleNamespace(permit=permitted.append)],
    )
    Actors._permit(collector, 100)  # type: ignore[arg-type]
    assert [permit.step for permit in permitted] == [100, 112, 124]
