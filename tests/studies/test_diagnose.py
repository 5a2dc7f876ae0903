"""Facts are found where they are and nowhere else, and the networks' answers are counted."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import configs
from agent.agent import Agent
from agent.run.foresight import Step
from run import main
from studies import collect, diagnose, readout
from tests.agent.run.episodes import SPACES as EPISODE
from tests.agent.run.episodes import rows
from tests.studies.conftest import Call, Refused, Train

LENGTH, COUNT, TASK = 6, 120, "memory_chain:n=3"


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Of two actions. Its latent tells a cue in frame 1 alone; h holds it, but not while imagining."""
    monkeypatch.setattr(readout, "STEPS", 200)

    def steps(_agent: Any, data: dict[str, torch.Tensor], context: int) -> Iterator[Step]:
        cue = 2 * data["cue"].float() - 1
        for t in range(LENGTH):
            noise = torch.randn(len(cue), 6)
            latent = torch.stack([cue if t == 1 else noise[:, 0], noise[:, 1]], 1)
            feature = torch.cat([cue[:, None], noise[:, 2:4], latent], 1)
            dreamed = torch.cat([noise[:, 4:5], feature[:, 1:]], 1) if t >= context else feature
            yield Step({"at": feature}, feature, {"at": dreamed}, dreamed)

    monkeypatch.setattr(diagnose, "steps", steps)
    monkeypatch.setattr(
        diagnose, "encoded", lambda _agent, batch: {"cue": torch.as_tensor(batch["probe/cue"][:, 0])}
    )
    # After action 1 a dreamed step is worth what h says, after action 0 the opposite.
    monkeypatch.setattr(
        diagnose, "predicted_reward", lambda _agent, state, action: state["at"][:, 0] * (2 * action[:, 1] - 1)
    )
    backbone = SimpleNamespace(
        latent=SimpleNamespace(size=2),
        policy_input=lambda state: state["at"],
        prepare_imagination=lambda state, _horizon: state,
        imagine_step=lambda state, _action, _noise: (state, state["at"]),
    )
    actor = SimpleNamespace(mode=lambda: torch.tensor([[1.0, 0.0]]).expand(1, 2))
    return SimpleNamespace(
        backbone=backbone,
        codec=SimpleNamespace(space=spaces.Discrete(2), size=2),
        actor_critic=SimpleNamespace(
            policy=lambda inputs: SimpleNamespace(mode=lambda: actor.mode().expand(len(inputs), 2))
        ),
        device=torch.device("cpu"),
        deterministic_eval=True,
        autocast=nullcontext,
        seed_torch=lambda *_: torch.manual_seed(0),
    )  # type: ignore[return-value]


def episodes(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Each asks for the cue in the step before its last one; one in four does not ask."""
    random, told = np.random.default_rng(seed), []
    for number in range(count):
        cue = int(random.integers(2))
        answer, reward = np.full(LENGTH, -1), np.zeros(LENGTH, np.float32)
        if number % 4:
            answer[-2], reward[-1] = cue, 1
        told.append(
            rows(LENGTH)
            | {"probe/cue": np.full(LENGTH, cue), "probe/answer": answer, "probe/room": np.zeros((LENGTH, 2))}
            | {"reward": reward}
        )
    return told


def test_where_a_fact_is_and_where_it_is_lost(agent: Agent) -> None:
    torch.manual_seed(0)
    found = diagnose.diagnose(agent, episodes(3 * COUNT, 0), episodes(COUNT, 1), 3, acts=True)
    assert (found["episodes"], found["steps"], found["reached"]) == (COUNT, 3 * COUNT // 4, 0.75)
    assert found["facts"].keys() == {"cue", "answer"}
    observed, imagined = (found["facts"]["answer"][how] for how in ("observed", "imagined"))
    assert observed["features"] == observed["policy"] == {"linear": 1.0, "mlp": 1.0}
    assert all(share < 0.7 for read in (observed["latent"], *imagined.values()) for share in read.values())
    assert found["seen"] == {"cue": {"frame": 1, "linear": 1.0}}
    assert found["chosen"]["observed"]["reward"] == 1.0
    assert found["chosen"]["imagined"]["reward"] < 0.7
    asked = [episode["probe/cue"][0] for number, episode in enumerate(episodes(COUNT, 1)) if number % 4]
    assert found["chosen"]["observed"]["actor"] == pytest.approx(1 - np.mean(asked))


def test_without_an_answer_it_looks_at_the_last_step(agent: Agent) -> None:
    told = [
        {key: value for key, value in each.items() if key != "probe/answer"} for each in episodes(COUNT, 0)
    ]
    found = diagnose.diagnose(agent, told, told, None, acts=True)
    assert (found["steps"], found["reached"], found["chosen"]) == (COUNT, 1.0, {})
    assert found["facts"]["cue"]["observed"]["policy"]["linear"] == 1.0
    assert "imagined" not in found["facts"]["cue"]


def test_where_no_answer_is_rewarded_at_once_rewards_do_not_tell_it(agent: Agent) -> None:
    told = [each | {"reward": np.zeros(LENGTH, np.float32)} for each in episodes(COUNT, 0)]
    assert diagnose.diagnose(agent, told, told, None, acts=True)["chosen"]["observed"].keys() == {"actor"}


def test_where_in_an_episode_the_answers_are_right(agent: Agent) -> None:
    """Four answers are told apart, of which the first two are action 0, which the actor takes; not one."""
    asked = np.array([-1, 0, 0, 1, 1, -1])
    told = [each | {"probe/answer": asked, "reward": np.ones(LENGTH, np.float32)} for each in episodes(40, 0)]
    cues = np.array([each["probe/cue"][0] for each in told])
    found = diagnose.diagnose(agent, told, told, None, acts=True)
    assert found["quarters"]["observed"].keys() == {"linear", "mlp", "reward", "actor"}
    assert found["quarters"]["observed"]["actor"] == [1, 1, 0, 0]
    shares = [np.mean(cues == answer) for answer in (0, 0, 1, 1)]
    assert found["quarters"]["observed"]["reward"] == pytest.approx(shares)
    once = [each | {"probe/answer": np.where(np.arange(LENGTH) == 4, 1, -1)} for each in told]
    assert not diagnose.diagnose(agent, once, once, None, acts=True)["quarters"]


def test_which_cases_are_never_got_right(agent: Agent) -> None:
    """By facts that do not change, over all episodes; none where one has too many values, or all change."""
    told = episodes(40, 0)
    for each in told:
        each["reward"] = np.where(each["probe/cue"] == 1, each["reward"], 0).astype(np.float32)
    found = diagnose.diagnose(agent, told, told, None, acts=True)["cases"]
    counted = {tuple(case["facts"].values()): (case["episodes"], case["return"]) for case in found}
    cues = np.array([each["probe/cue"][0] for each in told])
    asks = np.arange(40) % 4 > 0
    assert [*found[0]["facts"]] == ["cue", "answer"]
    assert counted == {
        **{(cue, -1): (2 * np.sum(~asks & (cues == cue)), 0) for cue in (0, 1)},
        **{(cue, cue): (2 * np.sum(asks & (cues == cue)), cue) for cue in (0, 1)},
    }
    many = [each | {"probe/number": np.full(LENGTH, number)} for number, each in enumerate(told)]
    assert diagnose.diagnose(agent, many, many, None, acts=True)["cases"] == []
    changing = [
        each | {f"probe/{name}": np.arange(LENGTH) % 2 for name in ("cue", "answer")} for each in told
    ]
    assert diagnose.diagnose(agent, changing, changing, None, acts=True)["cases"] == []


def test_no_episode_that_asks(agent: Agent) -> None:
    quiet = episodes(4, 0)[:1]
    with pytest.raises(configs.Mistake, match="none of the 1 episodes comes to a step that asks"):
        diagnose.diagnose(agent, quiet, quiet, None, acts=True)


@pytest.mark.parametrize("backbone", ["tssm", "s4wm_hybrid"])
def test_in_mixed_precision(backbone: str) -> None:
    """A dream's keys are bfloat16 there, and a step that is tried from it computes alike."""
    config = configs.load(
        backbone=backbone, presets=["debug"], overrides={"device": "cpu", "precision": "bfloat16"}
    )
    agent = Agent(*EPISODE, config)
    found = diagnose.gather(agent, episodes(8, 0), 2, acts=True)
    assert found.chosen.keys() == {(how, net) for how in diagnose.HOW for net in diagnose.NETWORKS}
    assert {len(each) for each in (*found.inputs.values(), *found.chosen.values())} == {6}
    assert all(each.dtype == torch.float32 for each in found.inputs.values())


def test_as_a_command(
    train: Train,
    call: Call,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(readout, "STEPS", 20)
    run = train("s4wm", TASK)
    assert f"collect --policy {run}" in refused("diagnose", run)
    assert f"no episodes in {tmp_path / 'none'}" in refused("diagnose", run, "--data", tmp_path / "none")
    collect.fill(tmp_path, collect.plan(TASK, "random"), 40, 1)
    found = call("diagnose", run, "--data", tmp_path, "--context", "2")
    assert (found["task"], found["backbone"], found["episodes"], found["steps"]) == (TASK, "s4wm", 10, 10)
    assert found["chosen"].keys() == {"observed", "imagined"} and found["reached"] == 1
    assert "--context must leave a step" in refused("diagnose", run, "--data", tmp_path, "--context", "4")
    longer = tmp_path / "longer"
    collect.fill(longer, collect.plan("memory_chain:n=5", "random"), 8, 1)
    for folder, said in ((tmp_path, False), (longer, True)):
        assert main(["diagnose", str(run), "--data", str(folder)]) == 0
        line = f"run.py: the episodes in {folder} are of memory_chain:n=5, the run of {TASK}\n"
        assert (line in capsys.readouterr().err) == said
    monkeypatch.setattr(diagnose, "facts_of", lambda _: {})
    assert "tell no fact" in refused("diagnose", run, "--data", tmp_path)
