"""What every backbone promises (worldmodels/base.py), as functions that take a `Case` and assert.

`test_contract.py` runs all of `CHECKS` on every registered backbone, `test_docs.py` on the one in the docs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Distribution, Normal, OneHotCategorical, kl_divergence

import configs
from agent.optim import Optimiser
from worldmodels import Backbone, Rollout, State, WorldModel, make_backbone, model_of
from worldmodels.base import keep_steps, merge_rows, reset_state
from worldmodels.latent import Categorical

B, T, E, A = 4, 13, 5, 3
RATES = {"beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip": 100.0, "warmup": 0}


@dataclass(frozen=True)
class Case:
    """A backbone of `configs/backbones.yaml` in its debug size, with some options changed."""

    backbone: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def config(self) -> configs.Config:
        return configs.load(backbone=self.backbone, presets=["debug"], overrides=self.overrides)

    def make(self, seed: int = 0) -> Backbone:
        torch.manual_seed(seed)
        return backbone_of(self.config(), E, A).to(self.device, self.dtype)


def model_in(config: configs.Config) -> str:
    """The key of `BACKBONES` that a configuration chooses."""
    return model_of(config.backbone)


def backbone_of(config: configs.Config, embed_size: int, action_size: int) -> Backbone:
    """The backbone that a configuration describes."""
    return make_backbone(model_in(config), config[model_in(config)], embed_size, action_size)


@dataclass
class Inputs:
    """Arguments of `observe` and `observe_step`: `[B, T, ...]`, and the state before the first step."""

    state: State
    embed: Tensor
    action: Tensor
    is_first: Tensor
    noise: Tensor

    def window(self, begin: int, end: int, state: State | None = None) -> "Inputs":
        """The same inputs from step `begin` to `end`, from another state if one is given."""
        parts = (leaf[:, begin:end] for leaf in (self.embed, self.action, self.is_first, self.noise))
        return Inputs(self.state if state is None else state, *parts)

    def observe(self, backbone: Backbone, keep: Tensor | None = None) -> Rollout:
        return backbone.observe(
            self.state, self.embed, self.action, self.is_first, keep=keep, noise=self.noise
        )


def make_inputs(case: Case, backbone: Backbone, seed: int = 1, steps: int = T) -> Inputs:
    """Random inputs with resets at the first and the last step, two in a row, and a row without any.

    The state is what a few steps of observation leave behind: not zero, in whatever leaves the backbone has.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(case.device, case.dtype)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(case.device, case.dtype)

    groups = backbone.latent.shape[0]
    state = backbone.initial(B)
    with torch.no_grad():
        for _ in range(3):
            began = torch.zeros(B, dtype=torch.bool, device=case.device)
            state, _ = backbone.observe_step(state, normal(B, E), normal(B, A), began, uniform(B, groups))
    is_first = torch.zeros(B, steps, dtype=torch.bool, device=case.device)
    is_first[1, 0] = is_first[1, steps // 2] = True
    is_first[2, steps // 3 : steps // 3 + 2] = is_first[2, -1] = True
    is_first[3] = uniform(steps) < 0.3
    return Inputs(state, normal(B, steps, E), normal(B, steps, A), is_first, uniform(B, steps, groups))


def steps_of(backbone: Backbone, inputs: Inputs) -> tuple[list[State], Tensor]:
    """The states after each `observe_step`, and the features `[B, T, F]`."""
    state, states, features = inputs.state, [], []
    for t in range(inputs.is_first.shape[1]):
        step = inputs.window(t, t + 1)
        state, feature = backbone.observe_step(
            state, step.embed[:, 0], step.action[:, 0], step.is_first[:, 0], step.noise[:, 0]
        )
        states.append(state)
        features.append(feature)
    return states, torch.stack(features, 1)


def close(case: Case, actual: Tensor, expected: Tensor, what: str) -> None:
    """Equal to 1e-9 in float64 and 1e-4 in float32."""
    tolerance = 1e-9 if case.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(
        actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}"
    )


def close_states(case: Case, actual: State, expected: State, what: str) -> None:
    assert actual.keys() == expected.keys(), f"{what}: {list(actual)} against {list(expected)}"
    for key in expected:
        close(case, actual[key], expected[key], f"{what}, leaf {key}")


def close_rollouts(case: Case, actual: Rollout, expected: Rollout, what: str) -> None:
    for name in ("features", "policy", "posterior", "prior"):
        close(case, getattr(actual, name), getattr(expected, name), f"{what}, {name}")
    close_states(case, actual.last, expected.last, f"{what}, last state")


def join(left: Rollout, right: Rollout) -> Rollout:
    """Two windows as one."""
    names = ("features", "policy", "posterior", "prior")
    joined = [torch.cat([getattr(left, name), getattr(right, name)], 1) for name in names]
    return Rollout(*joined, last=right.last, kept={})


def check_shapes(case: Case) -> None:
    """Sizes are what the backbone says, probabilities are some, every leaf has the batch in front."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    keep = torch.tensor([[0, 5, T - 1]] * B, device=case.device)
    rollout = inputs.observe(backbone, keep)
    assert rollout.features.shape == (B, T, backbone.feature_size)
    sample = backbone.latent.sample(rollout.posterior, inputs.noise).flatten(-2)
    close(
        case,
        rollout.features[..., -backbone.latent.size :],
        sample,
        "features end with a sample of the latent",
    )
    assert rollout.policy.shape == (B, T, backbone.policy_size)
    for distribution in (rollout.posterior, rollout.prior):
        if isinstance(backbone.latent, Categorical):
            assert distribution.shape == (B, T, *backbone.latent.shape)
            assert bool((distribution > 0).all())
            close(case, distribution.sum(-1), torch.ones_like(distribution[..., 0]), "probabilities sum to 1")
        else:
            assert distribution.shape == (B, T, backbone.latent.shape[0], 2)
            assert bool((distribution[..., 1] > 0).all()), "a deviation is positive"
    initial = backbone.initial(B)
    for key, leaf in initial.items():
        assert leaf.shape == rollout.last[key].shape, key
        assert rollout.kept[key].shape == (B, 3, *leaf.shape[1:]), key
        assert not leaf.any(), f"{key}: the initial state is zero, as reset_state makes it"
        assert leaf.device.type == torch.device(case.device).type
    assert rollout.last.keys() == rollout.kept.keys() == initial.keys()
    assert inputs.observe(backbone).kept == {}
    for kl in backbone.kl_losses(rollout):
        assert kl.shape == (B, T)
    state, feature = backbone.observe_step(
        initial, inputs.embed[:, 0], inputs.action[:, 0], inputs.is_first[:, 0]
    )
    assert feature.shape == (B, backbone.feature_size)
    assert backbone.policy_input(state).shape == (B, backbone.policy_size)
    state, feature = backbone.imagine_step(state, inputs.action[:, 0])
    assert feature.shape == (B, backbone.feature_size)
    assert backbone.policy_input(state).shape == (B, backbone.policy_size)


def check_window_equals_steps(case: Case) -> None:
    """observe over T = T times observe_step: features, policy inputs, states and gradients."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    every = torch.arange(T, device=case.device).expand(B, T)
    rollout = inputs.observe(backbone, every)
    states, features = steps_of(backbone, inputs)
    close(case, rollout.features, features, "features")
    close_states(case, rollout.last, states[-1], "last state")
    for t, state in enumerate(states):
        close(case, rollout.policy[:, t], backbone.policy_input(state), f"policy input at step {t}")
        kept = {key: leaf[:, t] for key, leaf in rollout.kept.items()}
        close_states(case, kept, state, f"kept state of step {t}")
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    weight = torch.linspace(-1, 1, features.numel(), device=case.device, dtype=case.dtype)
    gradients = [
        torch.autograd.grad((weight * f.flatten()).sum(), parameters, allow_unused=True)
        for f in (rollout.features, features)
    ]
    for of_window, of_steps in zip(*gradients, strict=True):
        assert (of_window is None) == (of_steps is None)
        if of_window is not None and of_steps is not None:
            size = of_steps.abs().max().clamp(min=1)
            close(case, of_window / size, of_steps / size, "gradient of the parameters")


def check_window_equals_windows_of_one_step(case: Case) -> None:
    """observe over T = T times observe over one step, posterior and prior included."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    whole, state = inputs.observe(backbone), inputs.state
    for t in range(T):
        single = inputs.window(t, t + 1, state).observe(backbone)
        state = single.last
        close(case, single.posterior, whole.posterior[:, t : t + 1], f"posterior at step {t}")
        close(case, single.prior, whole.prior[:, t : t + 1], f"prior at step {t}")


def check_two_windows_equal_one(case: Case) -> None:
    """The state carried from one window to the next leaves no seam, wherever it is cut."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    whole = inputs.observe(backbone)
    for cut in (1, T // 2, T // 3 + 1, T - 1):
        left = inputs.window(0, cut).observe(backbone)
        right = inputs.window(cut, T, left.last).observe(backbone)
        close_rollouts(case, join(left, right), whole, f"cut at {cut}")


def check_resets_are_exact(case: Case) -> None:
    """Nothing before a reset changes anything from it on, bit for bit: other numbers, and NaN."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    for resets in ([0], [T - 1], [5, 6], [3, 9], [0, 1, T - 1]):
        inputs.is_first[:] = False
        inputs.is_first[0, resets] = True  # the other rows have none
        for spoil in (lambda x: -7 * x + 1, lambda x: torch.full_like(x, torch.nan)):
            other = replace(
                inputs,
                state={
                    key: torch.cat([spoil(leaf[:1]), leaf[1:]]) if leaf.is_floating_point() else leaf
                    for key, leaf in inputs.state.items()
                },
                embed=inputs.embed.clone(),
                action=inputs.action.clone(),
            )
            first = resets[-1]
            other.embed[0, :first] = spoil(inputs.embed[0, :first])
            # The action that led into a first row belongs to no episode.
            other.action[0, : first + 1] = spoil(inputs.action[0, : first + 1])
            keep = torch.full((B, 1), first, device=case.device)
            with torch.no_grad():
                clean, spoilt = inputs.observe(backbone, keep), other.observe(backbone, keep)
                clean_steps, spoilt_steps = steps_of(backbone, inputs)[1], steps_of(backbone, other)[1]
            for name in ("features", "policy", "posterior", "prior"):
                expected, actual = getattr(clean, name), getattr(spoilt, name)
                assert torch.equal(actual[0, first:], expected[0, first:]), f"{name}, resets {resets}"
                assert torch.equal(actual[1:], expected[1:]), f"{name} of other rows, resets {resets}"
            for key in clean.last:
                assert torch.equal(spoilt.last[key], clean.last[key]), f"last {key}, resets {resets}"
                assert torch.equal(spoilt.kept[key], clean.kept[key]), f"kept {key}, resets {resets}"
            assert torch.equal(spoilt_steps[0, first:], clean_steps[0, first:]), f"steps, resets {resets}"


def check_a_reset_is_a_fresh_start(case: Case) -> None:
    """From a reset on, everything is as from the initial state; `is_first` there changes nothing more."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    inputs.is_first[:] = False
    inputs.is_first[:, 4] = True
    inputs.action[:, 4] = 0
    whole = inputs.observe(backbone)
    fresh = inputs.window(4, T, backbone.initial(B))
    close(case, whole.features[:, 4:], fresh.observe(backbone).features, "from the initial state")
    fresh.is_first[:] = False
    close(case, whole.features[:, 4:], fresh.observe(backbone).features, "without is_first")
    torch.testing.assert_close(
        reset_state(torch.ones(B, dtype=torch.bool, device=case.device), inputs.state), backbone.initial(B)
    )


def check_gradients_go_back_in_time_only(case: Case) -> None:
    """The feature at t has no gradient to inputs after t, nor to inputs before a reset."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    reset, t = 5, 9
    inputs.is_first[:] = False
    inputs.is_first[0, reset] = True
    embed, action = inputs.embed.requires_grad_(), inputs.action.requires_grad_()
    rollout = inputs.observe(backbone)
    for name in ("features", "policy"):
        value = getattr(rollout, name)[:, t]
        weight = torch.linspace(-1, 1, value.numel(), device=case.device, dtype=case.dtype)
        wanted = (weight * value.flatten()).sum()
        by_embed, by_action = torch.autograd.grad(wanted, [embed, action], retain_graph=True)
        for gradient, source in ((by_embed, "embed"), (by_action, "action")):
            assert not gradient[:, t + 1 :].any(), f"{name} at {t} depends on later {source}"
            assert not gradient[0, :reset].any(), f"{name} at {t} depends on {source} before the reset"
            assert bool(gradient[1:, 1].any()), f"{name} at {t} does not depend on {source} at step 1"
            assert bool(gradient[:, t].any()), f"{name} at {t} does not depend on {source} at step {t}"
        assert not by_action[0, reset].any(), "the action into a first row has an effect"


def check_rows_are_independent(case: Case) -> None:
    """What one row of the batch holds changes nothing in another; the order of rows means nothing."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    order = torch.tensor([2, 0, 3, 1], device=case.device)
    turned = Inputs(
        {key: leaf[order] for key, leaf in inputs.state.items()},
        *(leaf[order] for leaf in (inputs.embed, inputs.action, inputs.is_first, inputs.noise)),
    )
    expected, actual = inputs.observe(backbone), turned.observe(backbone)
    close(case, actual.features, expected.features[order], "features of permuted rows")
    for key, leaf in expected.last.items():
        close(case, actual.last[key], leaf[order], f"last {key} of permuted rows")
    single = Inputs(
        {key: leaf[:1] for key, leaf in inputs.state.items()},
        *(leaf[:1] for leaf in (inputs.embed, inputs.action, inputs.is_first, inputs.noise)),
    )
    close(case, single.observe(backbone).features, expected.features[:1], "a row on its own")


def check_imagination(case: Case) -> None:
    """imagine = repeated imagine_step, from kept as from stepped states; a reset on the way starts afresh."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    keep = torch.stack([torch.randperm(T)[:2] for _ in range(B)]).to(case.device)
    rollout = inputs.observe(backbone, keep)
    states, _ = steps_of(backbone, inputs)
    kept = merge_rows(rollout.kept)
    stepped = merge_rows(
        {key: keep_steps(keep, torch.stack([state[key] for state in states], 1)) for key in kept}
    )
    actions, noise = inputs.action.repeat(2, 1, 1)[:, :5], inputs.noise.repeat(2, 1, 1)[:, :5]
    last, features = backbone.imagine(kept, actions, noise=noise)
    assert features.shape == (2 * B, 5, backbone.feature_size)
    state = stepped
    for t in range(5):
        state, feature = backbone.imagine_step(state, actions[:, t], noise[:, t])
        close(case, features[:, t], feature, f"imagined feature {t}")
    close_states(case, last, state, "state after imagination")
    first = torch.zeros(2 * B, 5, dtype=torch.bool, device=case.device)
    first[:, 2] = True
    _, cut = backbone.imagine(kept, actions, first, noise)
    fresh_actions = torch.cat([torch.zeros_like(actions[:, 2:3]), actions[:, 3:]], 1)
    _, fresh = backbone.imagine(backbone.initial(2 * B), fresh_actions, noise=noise[:, 2:])
    close(case, cut[:, :2], features[:, :2], "features before the reset")
    close(case, cut[:, 2:], fresh, "features after a reset in imagination")


def check_prepared_imagination(case: Case) -> None:
    """Steps from a state prepared for a horizon are steps from the state, gradients and all."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    start = {key: leaf.requires_grad_(leaf.is_floating_point()) for key, leaf in inputs.state.items()}
    action = inputs.action.requires_grad_()
    leaves = [action, *(leaf for leaf in start.values() if leaf.requires_grad), *backbone.parameters()]
    results = []
    for state in (start, backbone.prepare_imagination(start, 6)):
        values = []
        for t in range(6):
            state, feature = backbone.imagine_step(state, action[:, t], inputs.noise[:, t])
            values += [feature, backbone.policy_input(state)]
        value = torch.cat(values, 1)
        weight = torch.linspace(-1, 1, value.numel(), device=case.device, dtype=case.dtype)
        total = (weight * value.flatten()).sum()
        results.append([value, *torch.autograd.grad(total, leaves, allow_unused=True)])
    for number, (stepped, prepared) in enumerate(zip(*results, strict=True)):
        assert (stepped is None) == (prepared is None)
        if stepped is not None:
            size = stepped.abs().max().clamp(min=1)
            close(
                case, prepared / size, stepped / size, "gradient" if number else "features and policy inputs"
            )
    with torch.no_grad():  # where steps may write over what was prepared, and leave the state as it was
        before = {key: leaf.clone() for key, leaf in inputs.state.items()}
        state, values = backbone.prepare_imagination(inputs.state, 6), []
        for t in range(6):
            state, feature = backbone.imagine_step(state, inputs.action[:, t], inputs.noise[:, t])
            values += [feature, backbone.policy_input(state)]
        close(case, torch.cat(values, 1), results[0][0], "features and policy inputs without gradients")
        assert all(torch.equal(before[key], leaf) for key, leaf in inputs.state.items())


def check_imagination_follows_the_action(case: Case) -> None:
    """Different actions from the same state and with the same noise lead to different features."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    left, right = (
        backbone.imagine_step(inputs.state, action, inputs.noise[:, 0])[1]
        for action in (inputs.action[:, 0], -inputs.action[:, 0])
    )
    assert bool((left != right).any(-1).all())


def check_sampling(case: Case) -> None:
    """Without noise, samples come from torch's generator: the same seed, the same samples."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    inputs.noise = None  # type: ignore[assignment]
    features = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        features.append(inputs.observe(backbone).features)
    assert torch.equal(features[0], features[1]) and not torch.equal(features[0], features[2])


def check_save_and_load(case: Case) -> None:
    """A backbone of other weights becomes the same one by loading the state dict."""
    backbone, other = case.make(), case.make(seed=7)
    inputs = make_inputs(case, backbone)
    with torch.no_grad():
        expected = inputs.observe(backbone)
        before, _ = steps_of(other, inputs)  # fills whatever it keeps between calls
        assert not torch.equal(inputs.observe(other).features, expected.features)
        other.load_state_dict(backbone.state_dict())
        actual = inputs.observe(other)
        after, _ = steps_of(other, inputs)
        close_states(case, after[-1], expected.last, "steps after loading")
    assert torch.equal(actual.features, expected.features)
    assert any(not torch.equal(before[-1][key], after[-1][key]) for key in after[-1])


def check_steps_follow_an_update(case: Case) -> None:
    """After an optimiser's step nothing old is in use: steps equal windows, with and without gradients."""
    backbone = case.make()
    inputs = make_inputs(case, backbone)
    optimiser = Optimiser(backbone, **RATES, lr=0.05, ssm_lr=0.05)
    last = None
    for _ in range(3):
        rollout = inputs.observe(backbone)
        with torch.no_grad():
            states, features = steps_of(backbone, inputs)
        assert last is None or not torch.equal(last, features)
        close(case, features, rollout.features, "features after an update")
        close_states(case, states[-1], rollout.last, "state after an update")
        dynamics, representation = backbone.kl_losses(rollout)
        optimiser.step((dynamics + representation).mean() + rollout.features.square().mean())
        last = features


def check_autocast(case: Case) -> None:
    """Under autocast to bfloat16 the state stays float32 and finite, probabilities too, and gradients."""
    backbone = replace(case, dtype=torch.float32).make()
    inputs = make_inputs(replace(case, dtype=torch.float32), backbone, steps=70)
    keep = torch.zeros(B, 1, dtype=torch.int64, device=case.device)
    with torch.autocast(case.device, dtype=torch.bfloat16):
        inputs.embed = inputs.embed.bfloat16()  # as an encoder gives it
        rollout = inputs.observe(backbone, keep)
        states, _ = steps_of(backbone, inputs)
        imagined, feature = backbone.imagine_step(states[-1], inputs.action[:, 0])
        dynamics, representation = backbone.kl_losses(rollout)
    for state in (rollout.last, rollout.kept, states[-1], imagined):
        for key, leaf in state.items():
            assert not leaf.is_floating_point() or leaf.dtype == torch.float32, f"{key} is {leaf.dtype}"
            assert bool(leaf.isfinite().all()), key
    for value in (rollout.posterior, rollout.prior, dynamics, representation):
        assert value.dtype == torch.float32
        assert bool(value.isfinite().all())
    assert bool(feature.isfinite().all()) and bool(rollout.features.isfinite().all())
    (dynamics.mean() + representation.mean() + rollout.features.float().square().mean()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def check_kl_gradients(case: Case) -> None:
    """Dynamics teaches the prior only, representation the posterior only; both are the KL between the two."""
    backbone = case.make()
    rollout = make_inputs(case, backbone).observe(backbone)
    posterior, prior = rollout.posterior.detach(), rollout.prior.detach()
    left: Distribution
    right: Distribution
    if isinstance(backbone.latent, Categorical):
        left, right = OneHotCategorical(posterior), OneHotCategorical(prior)
    else:
        left, right = Normal(*posterior.unbind(-1)), Normal(*prior.unbind(-1))
    expected = kl_divergence(left, right).sum(-1)
    posterior.requires_grad_()
    prior.requires_grad_()
    dynamics, representation = backbone.kl_losses(replace(rollout, posterior=posterior, prior=prior))
    close(case, dynamics, expected, "dynamics")
    close(case, representation, expected, "representation")
    assert bool((expected > 0).all())
    for kl, taught, other in ((dynamics, prior, posterior), (representation, posterior, prior)):
        gradient, none = torch.autograd.grad(kl.sum(), [taught, other], allow_unused=True)
        assert bool(gradient.any()) and none is None


def check_losses_fall(case: Case) -> None:
    """200 updates of a world model on a toy lower every loss but the KL, and their sum.

    The KL rises as the posterior begins to say something, and falls when the prior has learned to foresee it.
    """
    case = replace(case, dtype=torch.float32)
    config = case.config()
    space = spaces.Dict({"vector": spaces.Box(-1, 1, (6,), np.float32)})
    torch.manual_seed(0)
    model = WorldModel(
        space,
        lambda embed_size: backbone_of(config, embed_size, action_size=2),
        encoder=config.encoder,
        decoder=config.decoder,
        heads=config.heads,
        kl=dict(config.kl) | {"free_nats": 0.0},
        recall=dict(config.recall) | {"scale": 1.0},
        action_size=2,
    ).to(case.device)
    optimiser = Optimiser(model, **RATES, lr=4e-3, ssm_lr=1e-3)
    history = []
    for update in range(200):
        batch = wheel(rows=12, steps=8, seed=update)
        batch = {key: value.to(case.device) for key, value in batch.items()}
        loss, _, metrics = model.loss(batch, model.backbone.initial(12))
        optimiser.step(loss)
        history.append(metrics | {"total": loss.detach()})
    for name in ("decoder/vector", "reward", "continue", "recall", "total"):
        curve = [float(metrics[name]) for metrics in history]
        first, last = np.mean(curve[:5]), np.mean(curve[-10:])
        assert last < 0.9 * first, f"{name}: {first:.3f} at first, {last:.3f} after 200 updates"


def wheel(rows: int, steps: int, seed: int) -> dict[str, Tensor]:
    """Batch `[rows, steps]`: the action turns a wheel of 4 places; reward at the last, 7 rows long."""
    random = np.random.default_rng(seed)
    clock = np.tile(np.arange(steps) % 7, (rows, 1))
    turned = random.integers(2, size=(rows, steps)) * (clock > 0)
    place = np.zeros((rows, steps), np.int64)
    for t in range(1, steps):
        place[:, t] = np.where(clock[:, t] == 0, 0, place[:, t - 1] + turned[:, t])
    place %= 4
    vector = np.concatenate([np.eye(4)[place], clock[..., None] / 6, place[..., None] == 3], -1)
    return {
        "obs/vector": torch.as_tensor(vector, dtype=torch.float32),
        "action": torch.as_tensor(np.eye(2)[turned] * (clock > 0)[..., None], dtype=torch.float32),
        "reward": torch.as_tensor(place == 3, dtype=torch.float32),
        "is_first": torch.as_tensor(clock == 0),
        "is_last": torch.as_tensor(clock == 6),
        "is_terminal": torch.as_tensor(clock == 6),
    }


CHECKS: list[Callable[[Case], None]] = [
    check_shapes,
    check_window_equals_steps,
    check_window_equals_windows_of_one_step,
    check_two_windows_equal_one,
    check_resets_are_exact,
    check_a_reset_is_a_fresh_start,
    check_gradients_go_back_in_time_only,
    check_rows_are_independent,
    check_imagination,
    check_prepared_imagination,
    check_imagination_follows_the_action,
    check_sampling,
    check_save_and_load,
    check_steps_follow_an_update,
    check_autocast,
    check_kl_gradients,
    check_losses_fall,
]
FLOAT32 = [
    check_window_equals_steps,
    check_two_windows_equal_one,
    check_imagination,
    check_prepared_imagination,
]
