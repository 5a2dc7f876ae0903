"""What every state-space layer promises: a window equals its steps, resets are exact, all is stable."""

import pytest
import torch
from torch import Tensor

from configs import load
from tests.worldmodels.ssm.layers import MAKERS, WIDTH, sequence, stepped
from worldmodels.base import keep_steps
from worldmodels.ssm import LAYERS, S4, Layer, Mamba2
from worldmodels.ssm.layer import TimeInvariant
from worldmodels.ssm.window import Window


@pytest.fixture(params=MAKERS)
def layer(request: pytest.FixtureRequest) -> Layer:
    torch.manual_seed(0)
    return MAKERS[request.param]().double()


def test_every_layer_is_here() -> None:
    assert set(LAYERS) == {name.split("-")[0] for name in MAKERS}, "add the new layer to MAKERS"


@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 1000])
def test_a_window_equals_its_steps(layer: Layer, steps: int) -> None:
    """Outputs, the last state, and states at some steps (one of them twice) or at all."""
    u, state, is_first = sequence(layer, 2, steps)
    keep = torch.randint(steps, (2, 5))
    keep[:, 1] = keep[:, 0]
    with torch.no_grad():
        expected, states = stepped(layer, u, state, is_first)
        for wanted, kept_states in ((keep, keep_steps(keep, states)), ("all", states), (None, None)):
            y, last, kept = layer(u, state, Window(is_first, wanted))
            torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(last, states[:, -1], rtol=1e-10, atol=1e-10)
            if kept_states is None:
                assert kept is None
            else:
                torch.testing.assert_close(kept, kept_states, rtol=1e-10, atol=1e-10)


def test_two_windows_equal_one(layer: Layer) -> None:
    u, state, is_first = sequence(layer, 2, 80)
    whole, states, _ = layer(u, state, Window(is_first))
    left, between, _ = layer(u[:, :37], state, Window(is_first[:, :37]))
    right, after, _ = layer(u[:, 37:], between, Window(is_first[:, 37:]))
    torch.testing.assert_close(torch.cat([left, right], 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, states, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("keep", [torch.tensor([[3, 33, 36], [0, 36, 5]]), "all"], ids=["some", "all"])
def test_gradients_of_a_window_equal_those_of_its_steps(layer: Layer, keep: Tensor | str) -> None:
    """Of outputs and kept states, to inputs, initial state and parameters."""
    u, state, is_first = sequence(layer, 2, 37)
    leaves = [u.requires_grad_(), state.requires_grad_(), *layer.parameters()]
    y, last, kept = layer(u, state, Window(is_first, keep))
    y_steps, states = stepped(layer, u, state, is_first)
    pairs = (
        (y, y_steps),
        (last, states[:, -1]),
        (kept, states if keep == "all" else keep_steps(keep, states)),
    )
    weights = [torch.randn_like(value) for value, _ in pairs]
    gradients = [
        torch.autograd.grad(
            sum((w * pair[side]).sum() for w, pair in zip(weights, pairs, strict=True)), leaves
        )
        for side in (0, 1)
    ]
    for of_window, of_steps in zip(*gradients, strict=True):
        torch.testing.assert_close(of_window, of_steps, rtol=1e-8, atol=1e-8)


def test_gradients_by_finite_differences(layer: Layer) -> None:
    u, state, is_first = sequence(layer, 2, 3)
    is_first = torch.tensor([[False, True, False], [False, False, False]])
    keep = torch.tensor([[1], [0]])
    leaves = [u.requires_grad_(), state.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda u, state: layer(u, state, Window(is_first, keep)), leaves, fast_mode=True
    )


@pytest.mark.parametrize("reset", [0, 1, 31, 32, 40, 69])
def test_nothing_passes_a_reset(layer: Layer, reset: int) -> None:
    """NaN before it changes no bit after it, nor in other rows, and no gradient goes back across it."""
    u, state, is_first = sequence(layer, 2, 70)
    is_first[:] = False
    is_first[0, reset] = is_first[0, reset // 2] = True
    keep = torch.tensor([[reset, 69], [0, 69]])
    for leaf in (u, state):
        leaf.requires_grad_()
    y, last, kept = layer(u, state, Window(is_first, keep))
    after = y[:, reset:].square().sum() + last.square().sum() + kept.square().sum()
    by_inputs, by_state = torch.autograd.grad(after, [u, state])
    with torch.no_grad():
        u[0, :reset], state[0] = torch.nan, torch.nan
        spoilt_y, spoilt_last, spoilt_kept = layer(u, state, Window(is_first, keep))
    assert torch.equal(spoilt_y[0, reset:], y[0, reset:]) and torch.equal(spoilt_y[1], y[1])
    assert torch.equal(spoilt_last, last) and torch.equal(spoilt_kept, kept)
    assert not by_inputs[0, :reset].any() and not by_state[0].any()
    assert by_inputs[0, reset:].isfinite().all() and by_inputs[0, reset].any()


def test_float32_over_4096_steps(layer: Layer) -> None:
    """Parallel in float32 against recurrent in float64, relative to the largest output."""
    u, state, is_first = sequence(layer, 1, 4096)
    is_first[:] = False
    with torch.no_grad():
        exact, states = stepped(layer, u, state, is_first)
        single, last, _ = layer.float()(u.float(), state.float(), Window(is_first))
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()
    assert (last - states[:, -1]).abs().max() < 1e-4 * states.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_float32_at_the_sizes_of_the_preset(name: str) -> None:
    """A window equals its steps in the precision of training as well, over 4096 steps with some 30 resets."""
    options = load(backbone="s4wm", presets=["small"]).s4wm
    own = dict(options[name])
    width = own.pop("width", 0) or options.width
    torch.manual_seed(0)
    layer = LAYERS[name](width, **own)
    u, state, is_first = sequence(layer, 1, 4096, width=width)
    is_first[:, : 4096 - 300] = False
    with torch.no_grad():
        expected, states = stepped(layer, u.float(), state, is_first)
        y, last, kept = layer(u.float(), state, Window(is_first, "all"))
    assert (y - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (kept - states).abs().max() < 1e-4 * states.abs().max()
    assert (last - states[:, -1]).abs().max() < 1e-4 * states.abs().max()


def test_stable_whatever_training_does(layer: Layer) -> None:
    """Without inputs every state becomes shorter, at the start and wherever the parameters wander."""
    state = torch.randn_like(layer.initial(50))
    for _ in range(3):
        with torch.no_grad():
            _, after = layer.step(torch.zeros(50, WIDTH, dtype=torch.float64), state)
            before, after = (x.flatten(2 if x.dim() > 3 else 1) for x in (state, after))
            assert bool((after.norm(dim=-1) < before.norm(dim=-1)).all())
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)


def test_discretisation_follows_parameters_set_in_place(layer: Layer) -> None:
    if not isinstance(layer, TimeInvariant):
        pytest.skip("nothing is kept between steps")
    with torch.no_grad():
        before = layer.discretise()
        assert layer.discretise() is before, "computed again although nothing changed"
        layer.log_decay += 1
        after = layer.discretise()
        assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
        layer.float()
        assert all(part.dtype in (torch.complex64, torch.float32) for part in layer.discretise())
        layer.double()
    torch.testing.assert_close(after, layer.discretise(), rtol=1e-6, atol=1e-6)


def test_discretisation_follows_a_fused_optimiser(layer: Layer) -> None:
    """torch's fused AdamW changes parameters without counting their version up."""
    layer.float()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    u, state, is_first = (x.float() if x.is_floating_point() else x for x in sequence(layer, 2, 8))
    for _ in range(3):
        layer(u, state, Window(is_first))[0].square().sum().backward()
        optimiser.step()
        expected, _, _ = layer(u, state, Window(is_first))
        with torch.no_grad():
            actual, _ = stepped(layer, u, state, is_first)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_how_long_modes_remember_is_told(layer: Layer) -> None:
    """`log_abar` is below 0 for every mode, and its largest that of the mode which decays most slowly.

    S4 is stepped from each unit state, which gives its dense Abar; in the others every mode decays by itself.
    """
    state = torch.ones_like(layer.initial(1))
    if isinstance(layer, S4):
        state = torch.eye(state[0, 0].numel(), dtype=state.dtype).view(-1, 1, *layer.state_shape[1:])
        state = state.expand(-1, *layer.state_shape)
    with torch.no_grad():
        told = layer.log_abar()
        _, after = layer.step(torch.zeros(len(state), WIDTH, dtype=torch.float64), state)
    if isinstance(layer, S4):
        moduli = torch.linalg.eigvals(after.flatten(2).movedim(1, 0)).abs()
    else:
        moduli = after.abs() if isinstance(layer, Mamba2) else after.norm(dim=-1) / state.norm(dim=-1)
    assert (told < 0).all()
    torch.testing.assert_close(told.max(), moduli.max().log(), rtol=1e-9, atol=1e-12)
