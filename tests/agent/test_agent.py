"""The agent goes on bit for bit where it was saved, acts as it was trained, says which loss went wrong."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.overrides import TorchFunctionMode

import configs
from agent.agent import Agent, Carry, derive_seed
from agent.imagination import imagine
from agent.metrics import Means
from agent.run import reports
from worldmodels import BACKBONES, State
from worldmodels.base import Counted
from worldmodels.encoder_decoder import observations

SPACE = spaces.Dict(
    {"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "vector": spaces.Box(-1, 1, (3,), np.float32)}
)
VECTOR = spaces.Dict({"vector": spaces.Box(-1, 1, (3,), np.float32)})
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi": spaces.MultiDiscrete([3, 2]),
    "box": spaces.Box(-1, 1, (2,)),
}


def make(
    backbone: str = "s4wm", space: spaces.Dict = SPACE, action: str = "discrete", **changed: Any
) -> Agent:
    """An agent of the debug preset; `changed` has dots for double underscores."""
    overrides = {key.replace("__", "."): value for key, value in changed.items()}
    config = configs.load(backbone=backbone, presets=["debug"], overrides={"device": "cpu"} | overrides)
    return Agent(space, ACTIONS[action], config, config.device)


def make_rows(
    agent: Agent, space: spaces.Dict, count: int, seed: int, is_first: Any = False
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = {
        f"obs/{key}": random.integers(0, 256, (count, *leaf.shape), np.uint8)
        if leaf.dtype == np.uint8
        else random.normal(size=(count, *leaf.shape)).astype(np.float32)
        for key, leaf in space.items()
    }
    return rows | {"is_first": np.broadcast_to(np.asarray(is_first), count).copy()}


def make_batch(
    agent: Agent, space: spaces.Dict, rows: int = 4, steps: int = 8, seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch as replay gives it, with ends and time limits in it."""
    random = np.random.default_rng(seed)
    agent.codec.space.seed(seed)
    single = [make_rows(agent, space, rows, 1000 * seed + t) for t in range(steps)]
    batch = {key: np.stack([row[key] for row in single], 1) for key in single[0]}
    batch["action"] = np.stack(
        [np.stack([np.asarray(agent.codec.space.sample()) for _ in range(steps)]) for _ in range(rows)]
    )
    batch["is_first"] = random.random((rows, steps)) < 0.25
    batch["action"][batch["is_first"]] = 0
    batch["is_last"] = np.concatenate([batch["is_first"][:, 1:], np.zeros((rows, 1), bool)], 1)
    batch["is_terminal"] = batch["is_last"] & (random.random((rows, steps)) < 0.5)
    batch["reward"] = random.normal(size=(rows, steps)).astype(np.float32)
    return batch


def tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in batch.items()}


@torch.no_grad()
def some_state(agent: Agent) -> State:
    """A state that four rows may be in: what two random steps leave."""
    state, backbone = agent.backbone.initial(4), agent.backbone
    for _ in range(2):
        embed, action = torch.randn(4, agent.model.encoder.output_size), torch.randn(4, agent.codec.size)
        state, _ = backbone.observe_step(state, embed, action, torch.zeros(4, dtype=torch.bool))
    return state


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested dicts and lists by path."""
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list | tuple)
        else None
    )
    if items is None:
        return {path: tree}
    return {key: leaf for name, value in items for key, leaf in flat(value, f"{path}/{name}").items()}


def assert_same(left: Any, right: Any) -> None:
    """Two states are equal bit for bit."""
    one, two = flat(left), flat(right)
    assert one.keys() == two.keys()
    for key in one:
        same = torch.equal(one[key], two[key]) if isinstance(one[key], torch.Tensor) else one[key] == two[key]
        assert same, key


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_restored_agent_goes_on_bit_for_bit(backbone: str, action: str) -> None:
    """state_dict -> a new agent of another seed's weights -> the same update, action and metrics."""
    agent = make(backbone, action=action)
    carry, rows = agent.initial(2), make_rows(agent, SPACE, 2, seed=1, is_first=True)
    for seed in range(3):
        agent.update(make_batch(agent, SPACE, seed=seed))
        carry, _ = agent.act(carry, rows)
    agent.metrics()
    saved = torch.load(_written(agent.state_dict()), weights_only=True)
    # The run's seed is part of the configuration; weights and everything else must come from the state.
    other = make(backbone, action=action)
    other.update(make_batch(other, SPACE, seed=9))
    other.metrics()
    other.load_state_dict(saved)
    assert_same(other.state_dict(), saved)
    outcomes = []
    for one in (agent, other):
        one.update(make_batch(one, SPACE, seed=5))
        state, chosen = one.act(carry, rows)
        outcomes.append((one.state_dict(), one.metrics(), state.state, state.action, torch.as_tensor(chosen)))
    assert_same(list(outcomes[0]), list(outcomes[1]))


def _written(state: dict[str, Any]) -> io.BytesIO:
    """The state as a checkpoint's file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_same_seed_is_the_same_agent(backbone: str) -> None:
    torch.manual_seed(1)
    first = make(backbone)
    torch.manual_seed(2)
    second, third = make(backbone), make(backbone, seed=1)
    for agent in (first, second, third):
        agent.update(make_batch(agent, SPACE))
        torch.rand(3)  # what others draw does not matter
    assert_same(first.state_dict(), second.state_dict())
    with pytest.raises(AssertionError):
        assert_same(first.state_dict(), third.state_dict())


@pytest.mark.parametrize("action", ACTIONS)
def test_acting_is_a_function_of_seed_and_counter(action: str) -> None:
    agent = make(action=action, eval__deterministic=False)
    rows = make_rows(agent, SPACE, 64, seed=1, is_first=True)
    carry = agent.initial(64)
    acts = [agent.act(carry, rows)[1] for _ in range(2)]
    assert not np.array_equal(*acts), "the counter does not count"
    agent.acts = 0
    np.testing.assert_array_equal(agent.act(carry, rows)[1], acts[0])
    given = [agent.act(carry, rows, evaluate=True, counter=n)[1] for n in (7, 8, 7)]
    np.testing.assert_array_equal(given[0], given[2])
    assert not np.array_equal(given[0], given[1])
    assert agent.acts == 1, "an evaluation was counted"
    assert all(agent.codec.space.contains(one) for one in acts[0])


def test_evaluation_takes_the_most_probable_latent_and_action() -> None:
    agent = make()
    rows = make_rows(agent, SPACE, 16, seed=1, is_first=True)
    with torch.no_grad():
        for parameter in agent.actor_critic.actor.parameters():
            parameter += torch.randn_like(parameter)
    carry, action = agent.act(agent.initial(16), rows, evaluate=True, counter=0)
    policy = agent.actor_critic.policy(agent.backbone.policy_input(carry.state))
    np.testing.assert_array_equal(action, agent.codec.decode(policy.mode()))
    again, _ = agent.act(agent.initial(16), rows, evaluate=True, counter=1)
    trained, _ = agent.act(agent.initial(16), rows, counter=1)
    assert torch.equal(again.state["latent"], carry.state["latent"]), "the latent was drawn"
    assert not torch.equal(trained.state["latent"], carry.state["latent"])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_acting_is_what_training_observes(
    backbone: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over episodes, with actions stored and shifted as replay does: the same policy input at every step."""
    agent = make(backbone, action=action)
    steps, count, groups = 12, 3, agent.backbone.latent.shape[0]
    noise = torch.rand(count, steps, groups)
    step = agent.backbone.observe_step
    monkeypatch.setattr(agent.backbone, "observe_step", lambda *given: step(*given[:4], noise=noise[:, t]))
    starts = np.zeros((count, steps), bool)
    starts[:, 0] = starts[1, 4] = starts[2, 7] = starts[2, 8] = True
    carry, seen, stored = agent.initial(count), [], []
    # The first row clears whatever is carried into it.
    carry = Carry({key: leaf + 1 for key, leaf in carry.state.items()}, carry.action + 1)
    for t in range(steps):
        rows = make_rows(agent, SPACE, count, seed=t, is_first=starts[:, t])
        carry, taken = agent.act(carry, rows)
        seen.append(agent.backbone.policy_input(carry.state))
        stored.append({**rows, "action": taken})
    window = {key: np.stack([row[key] for row in stored], 1) for key in stored[0]}
    led = np.concatenate([np.zeros_like(window["action"][:, :1]), window["action"][:, :-1]], 1)
    led[window["is_first"]] = 0
    data = tensors(window)
    with torch.no_grad():
        rollout = agent.backbone.observe(
            agent.backbone.initial(count),
            agent.model.encoder({key[4:]: data[key] for key in data if key.startswith("obs/")}),
            agent.codec.encode(torch.as_tensor(led)),
            data["is_first"],
            noise=noise,
        )
    torch.testing.assert_close(rollout.policy, torch.stack(seen, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rollout.last, carry.state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_row_knows_nothing_of_the_action_before(backbone: str) -> None:
    agent = make(backbone)
    rows = make_rows(agent, SPACE, 4, seed=1, is_first=True)
    fresh = agent.initial(4)
    used = Carry({key: torch.randn_like(leaf) for key, leaf in fresh.state.items()}, torch.rand(4, 3))
    outcomes = [agent.act(carry, rows, evaluate=True, counter=0) for carry in (fresh, used)]
    assert_same(outcomes[0][0].state, outcomes[1][0].state)
    np.testing.assert_array_equal(outcomes[0][1], outcomes[1][1])
    rows["is_first"][:] = False
    later = agent.act(used, rows, evaluate=True, counter=0)[0].state
    assert any(not torch.equal(later[key], outcomes[0][0].state[key]) for key in later)


def test_the_carried_action_is_the_one_that_is_stored() -> None:
    """A continuous sample outside [-1, 1] is clipped for the environment, so for replay, so for the model."""
    agent = make(action="box")
    rows = make_rows(agent, SPACE, 200, seed=1, is_first=True)
    carry, action = agent.act(agent.initial(200), rows)
    assert np.abs(action).max() == 1, "no sample reached the bounds, so this shows nothing"
    assert torch.equal(carry.action, agent.codec.encode(torch.as_tensor(action)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_evaluation_leaves_training_as_it_was(backbone: str) -> None:
    agents = [make(backbone), make(backbone)]
    for agent, evaluates in zip(agents, (False, True), strict=True):
        agent.update(make_batch(agent, SPACE))
        carry = agent.act(agent.initial(2), make_rows(agent, SPACE, 2, 1, is_first=True))[0]
        if evaluates:
            other = agent.initial(5)
            for t in range(3):
                rows = make_rows(agent, SPACE, 5, t, is_first=t == 0)
                other, _ = agent.act(other, rows, evaluate=True, counter=t)
            reports.open_loop(agent, make_batch(agent, SPACE, seed=3), context=4)
        agent.update(make_batch(agent, SPACE, seed=1))
        agent.act(carry, make_rows(agent, SPACE, 2, 2))
    assert_same(agents[0].state_dict(), agents[1].state_dict())
    assert agents[0].metrics() == agents[1].metrics()


def test_metrics_are_means_since_the_last_call() -> None:
    agent = make()
    assert agent.metrics() == {}
    singles = []
    for seed in range(2):
        agent.update(make_batch(agent, SPACE, seed=seed))
        singles.append(agent.metrics())
    again = make()
    for seed in range(2):
        again.update(make_batch(again, SPACE, seed=seed))
    both = again.metrics()
    counted = {"train/kl_first", "train/reward_sign_accuracy"}  # of the steps that they are about
    assert both.keys() == singles[0].keys() >= counted
    assert {
        "train/model",
        "train/actor",
        "train/critic",
        "train/kl",
        "train/model_gradient_norm",
    } <= both.keys()
    for key, value in both.items() - [(key, both[key]) for key in counted]:
        assert value == pytest.approx((singles[0][key] + singles[1][key]) / 2, rel=1e-5, abs=1e-7)
    assert again.metrics() == {}


def test_a_metric_of_some_steps_is_their_mean_however_few_a_batch_has() -> None:
    """Not towards 0 where episodes are long or rewards rare, and nothing where there was none."""
    means = Means(torch.device("cpu"))
    for total, number in ((6.0, 2), (0.0, 0), (9.0, 1)):
        part = Counted(torch.tensor(total), torch.tensor(number))
        means.add({"kl_first": part, "kl": torch.tensor(total), "never": Counted(*torch.zeros(2))})
    assert means.take() == {"kl_first": 5, "kl": 5}
    assert means.take() == {}


def test_a_metric_of_some_updates_is_their_mean() -> None:
    """What explores ends with its part of a run, between two lines of a log."""
    means = Means(torch.device("cpu"))
    updates = {"kl": 1.0, "bonus": 4.0}, {"bonus": 6.0, "kl": 2.0}, {"kl": 6.0}, {"kl": 3.0, "late": 7.0}
    for metrics in updates:
        means.add({name: torch.tensor(value) for name, value in metrics.items()})
    means.check_finite(4)
    means.add({"kl": torch.tensor(3.0), "late": torch.tensor(torch.nan)})
    with pytest.raises(FloatingPointError, match=r"late is not finite .* since update 5;"):
        means.check_finite(5)
    assert {name: value for name, value in means.take().items() if name != "late"} == {"kl": 3, "bonus": 5}
    means.add({"kl": torch.tensor(3.0)})
    assert means.take() == {"kl": 3}


@pytest.mark.faults("parameters, loss or gradient not finite")
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("key", "named"), [("obs/vector", "train/decoder/vector"), ("reward", "train/reward")]
)
def test_numbers_that_are_not_finite_are_named(backbone: str, key: str, named: str) -> None:
    """Also some updates later, when the parameters are gone too: the loop asks only now and then."""
    agent = make(backbone, VECTOR)
    batch = make_batch(agent, VECTOR)
    batch[key][0, 2] = np.nan
    agent.update(make_batch(agent, VECTOR))
    for _ in range(3):
        agent.update(batch)
    with pytest.raises(FloatingPointError, match=rf"{named} is not finite \(mean nan\) since update 2;"):
        agent.metrics()


def test_a_dream_starts_where_the_configuration_says() -> None:
    for starts, count in (("last", 4), ("all", 32), ("random", 8)):
        agent = make(imagination__starts=starts, imagination__count=8 if starts == "random" else 4)
        seen = []
        agent.model.reward.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.shape))
        agent.update(make_batch(agent, SPACE))
        assert seen[0][:2] == (4, 8), "the window"
        assert seen[1][:2] == (agent.dream_options["horizon"], count), "the dream, but for its starts"


def test_the_reward_of_a_dreamed_step_knows_the_action_that_led_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dreams, seen = [], []

    def spy(*args: Any) -> Any:
        dreams.append(imagine(*args))
        return dreams[-1]

    monkeypatch.setattr("agent.agent.imagine", spy)
    agent = make()
    agent.model.trunk.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    agent.update(make_batch(agent, SPACE))
    (dream,), given = dreams, seen[1]
    policy, action = given.split([dream.policy.shape[-1], agent.codec.size], -1)
    assert torch.equal(policy, dream.policy[1:])
    torch.testing.assert_close(action / agent.model.action_scale, dream.action)


@pytest.mark.parametrize("classes", [4, 0])
def test_an_update_moves_every_parameter(classes: int) -> None:
    """With categorical and Gaussian latents."""
    for backbone in BACKBONES:
        agent = make(backbone, optimiser__warmup=0, **{f"{backbone}__classes": classes})
        before = flat({**agent.model.state_dict(), **agent.actor_critic.state_dict()})
        before = {key: value.clone() for key, value in before.items()}
        for seed in range(3):  # output layers that begin at 0 let gradients through from the second on
            agent.update(make_batch(agent, SPACE, seed=seed))
        after = flat({**agent.model.state_dict(), **agent.actor_critic.state_dict()})
        assert [key for key in before if torch.equal(before[key], after[key])] == []


@pytest.mark.parametrize("action", ACTIONS)
def test_through_the_dynamics_only_the_actor_learns_otherwise(action: str) -> None:
    """The gradient of the returns passes through model and critic and leaves both as they would be."""
    for backbone in BACKBONES:
        after = []
        for gradient in ("reinforce", "dynamics"):
            agent = make(backbone, VECTOR, action, actor_critic__gradient=gradient, optimiser__warmup=0)
            agent.update(make_batch(agent, VECTOR, seed=0))
            critic = {key: value.clone() for key, value in agent.actor_critic.critic.state_dict().items()}
            agent.update(make_batch(agent, VECTOR, seed=1))  # before, the heads let no gradient through
            assert all(np.isfinite(value) for value in agent.metrics().values())
            after.append((critic, agent.model.state_dict(), agent.actor_critic.actor.state_dict()))
        for one, other in list(zip(*after, strict=True))[:2]:  # the second update has another actor's dreams
            assert all(torch.equal(one[key], other[key]) for key in one)
        one, other = (actor for _, _, actor in after)
        assert not any(torch.equal(one[key], other[key]) for key in one if "weight" in key)


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_bfloat16(gradient: str) -> None:
    for backbone in BACKBONES:
        agent = make(backbone, precision="bfloat16", actor_critic__gradient=gradient)
        for seed in range(2):
            agent.update(make_batch(agent, SPACE, seed=seed))
        carry, _ = agent.act(agent.initial(2), make_rows(agent, SPACE, 2, 1, is_first=True))
        agent.act(carry, make_rows(agent, SPACE, 2, 2))
        assert all(np.isfinite(value) for value in agent.metrics().values())
        assert all(leaf.dtype == torch.float32 for leaf in carry.state.values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_windows_start_from_given_states(backbone: str) -> None:
    """They matter until an episode begins; what comes back are the states at the ends."""

    def update(
        state: dict[str, np.ndarray], is_first: bool
    ) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        agent = make(backbone, VECTOR)
        batch = make_batch(agent, VECTOR)
        batch["is_first"][:] = False
        batch["is_first"][:, 0] = is_first
        last = agent.update(batch | {f"state/{key}": value for key, value in state.items()})
        return agent.metrics(), last

    other = {key: leaf.numpy() for key, leaf in some_state(make(backbone, VECTOR)).items()}
    shapes = {key: leaf.shape for key, leaf in other.items()}
    zero = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    assert update(zero, False)[0] == update({}, False)[0] != update(other, False)[0]
    assert update(other, True)[0] == update({}, True)[0]
    last = update(other, False)[1]
    assert {key: leaf.shape for key, leaf in last.items()} == shapes
    assert not any(leaf.requires_grad for leaf in last.values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_burn_in_ends_in_the_state_that_stepping_has(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each window's own number of rows is run through, none of them if there are none; resets count."""
    agent = make(backbone)
    batch, before = make_batch(agent, SPACE, steps=8), make_batch(agent, SPACE, steps=6, seed=1)
    before["is_first"][2, 3] = True
    length = np.array([0, 2, 5, 6])
    noise = torch.rand(4, 6, agent.backbone.latent.shape[0])
    random = some_state(agent)
    rows = {key: before[key] for key in before if key.startswith("obs/") or key in ("action", "is_first")}
    data = tensors(
        batch
        | {f"burn_in/{key}": value for key, value in rows.items()}
        | {f"state/{key}": leaf.numpy() for key, leaf in random.items()}
        | {"burn_in/length": length}
    )
    observe = agent.backbone.observe
    monkeypatch.setattr(agent.backbone, "observe", lambda *given: observe(*given, noise=noise))
    found = agent.start(data)
    seen = tensors(rows)
    embed, action = agent.model.encoder(observations(seen)), agent.codec.encode(seen["action"])
    state = random
    for t in range(7):
        for key, leaf in state.items():
            here = length == t
            np.testing.assert_allclose(
                found[key][here].numpy(), leaf[here].detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=key
            )
        if t < 6:
            state, _ = agent.backbone.observe_step(
                state, embed[:, t], action[:, t], seen["is_first"][:, t], noise[:, t]
            )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_update_hands_back_the_state_that_is_asked_for(backbone: str) -> None:
    """After step `end` of each window; the last step's is that of a batch which does not ask."""
    batch = make_batch(agent := make(backbone), SPACE)
    asked, unasked = make(backbone), make(backbone)
    found = asked.update(batch | {"end": np.full(4, 7)})
    for key, leaf in unasked.update(batch).items():
        torch.testing.assert_close(found[key], leaf, rtol=1e-4, atol=1e-5)
    batch["is_first"][:, 4] = True
    other = {key: value.copy() for key, value in batch.items()}
    for key, value in other.items():
        if key.startswith("obs/"):
            value[:, 6:] = 0
    ends = np.array([3, 4, 5, 5])
    states = [make(backbone).update(rows | {"end": ends}) for rows in (batch, other)]
    for key, leaf in states[0].items():
        torch.testing.assert_close(states[1][key], leaf, msg="a later step changed it")
        assert leaf.shape == agent.backbone.initial(4)[key].shape


def test_seeds_are_apart() -> None:
    seeds = [
        derive_seed(*parts) for parts in ((0, "act", 0), (0, "act", 1), (0, "update", 0), (1, "act", 0), (0,))
    ]
    assert len(set(seeds)) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "act", 0) == seeds[0]


def test_parameter_counts() -> None:
    counts = make().parameter_counts()
    assert counts.keys() == {"backbone", "model", "actor", "critic"}
    assert counts["model"] > counts["backbone"] > 0
    exploring = make(**{"explore.networks": 2}).parameter_counts()
    assert exploring.pop("explorer") > 0 and exploring == counts


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu(backbone: str, precision: str) -> None:
    config = configs.load(backbone=backbone, presets=["debug"], overrides={"precision": precision})
    agent = Agent(SPACE, ACTIONS["discrete"], config, "cuda")
    for seed in range(2):
        agent.update(make_batch(agent, SPACE, seed=seed))
    carry, action = agent.act(agent.initial(2), make_rows(agent, SPACE, 2, 1, is_first=True))
    assert all(leaf.device.type == "cuda" for leaf in carry.state.values())
    assert all(agent.codec.space.contains(one) for one in action)
    assert all(np.isfinite(value) for value in agent.metrics().values())
    reports.open_loop(agent, make_batch(agent, SPACE), context=4)


class DrawnOnTheCPU(TorchFunctionMode):
    """Within, random numbers are those of the CPU's generator, whatever the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.rand, torch.randn_like, torch.randperm, torch.multinomial):
            return func(*args, **kwargs)
        device = kwargs.get("device") or args[0].device
        there = {"device": "cpu"} if "device" in kwargs else {}
        there_args = [value.cpu() if isinstance(value, torch.Tensor) else value for value in args]
        return func(*there_args, **kwargs | there).to(device)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
"""The first shows without a GPU that these tests run."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backbone", configs.backbones())
def test_an_update_is_the_same_on_another_device(backbone: str, device: str) -> None:
    """Losses and gradients of the same draws, within the rounding of float32."""
    here, there = make(backbone, VECTOR), make(backbone, VECTOR, device=device)
    there.load_state_dict(here.state_dict())
    with DrawnOnTheCPU():
        for agent in (here, there):
            agent.update(make_batch(agent, VECTOR))
    assert there.metrics() == pytest.approx(here.metrics(), rel=1e-3, abs=1e-4)
    for name, one in here.optimisers.items():
        for mine, other in zip(one.parameters, there.optimisers[name].parameters, strict=True):
            assert mine.grad is not None and other.grad is not None and other.device.type == device
            most = float(mine.grad.abs().max())
            torch.testing.assert_close(other.grad.cpu(), mine.grad, rtol=1e-3, atol=1e-3 * most + 1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_agent_goes_on_on_another_device(backbone: str, device: str) -> None:
    """From the CPU there and back, an update at each place: every number is taken along as it was."""
    before = make(backbone)
    before.update(make_batch(before, SPACE))
    for where in (device, "cpu"):
        saved = torch.load(_written(before.state_dict()), map_location="cpu", weights_only=True)
        agent = make(backbone, device=where)
        agent.load_state_dict(saved)
        carried = torch.load(_written(agent.state_dict()), map_location="cpu", weights_only=True)
        assert_same(carried, saved)
        agent.update(make_batch(agent, SPACE, seed=agent.updates))
        assert all(np.isfinite(value) for value in agent.metrics().values())
        before = agent
    assert before.updates == 3


@pytest.mark.gpu
def test_what_replay_reads_is_pinned_for_a_gpu() -> None:
    """The copy to the device does not wait then; what comes is what was read."""
    config = configs.load(presets=["debug"])
    agent = Agent(SPACE, ACTIONS["discrete"], config, "cuda")
    batch = make_batch(agent, SPACE)
    for key, value in agent.prepare(batch).items():
        assert value.is_pinned(), key
        np.testing.assert_array_equal(value.numpy(), batch[key])
    agent.update(agent.prepare(batch))
