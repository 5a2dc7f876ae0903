"""What every state-space layer promises: a window equals its steps, resets are exact, all is stable."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg, signal
from torch import Tensor, nn

from configs import load
from worldmodels.base import keep_steps
from worldmodels.ssm import LAYERS, LRU, S4, S4D, S5, Mamba2, Stack
from worldmodels.ssm.hippo import TimeInvariant, hippo_normal, log_steps

WIDTH = 6
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "s5": lambda: S5(WIDTH, state_size=8, blocks=2),
    "s4d-legs": lambda: S4D(WIDTH, state_size=4),
    "s5-unit": lambda: S5(WIDTH, state_size=8, blocks=2, input_scale="unit"),
    "s4d-unit": lambda: S4D(WIDTH, state_size=4, input_scale="unit"),
    "s4d-lin": lambda: S4D(WIDTH, state_size=4, init="lin"),
    "s4d-bilinear": lambda: S4D(WIDTH, state_size=4, discretisation="bilinear"),
    "s4": lambda: S4(WIDTH, state_size=4, dt_min=1e-3, dt_max=1e-1),
    "lru": lambda: LRU(WIDTH, state_size=8, r_min=0.5, r_max=0.999, max_phase=6.28),
    "mamba2": lambda: Mamba2(WIDTH, state_size=4, head_size=3, dt_min=1e-3, dt_max=1e-1),
}


@pytest.fixture(params=MAKERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MAKERS[request.param]().double()


def sequence(
    layer: nn.Module, batch: int, steps: int, seed: int = 1, width: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs `[B, T, D]`, a state that is not zero, and random resets."""
    torch.manual_seed(seed)
    u = torch.randn(batch, steps, width, dtype=torch.float64)
    state = torch.randn_like(layer.initial(batch))
    return u, state, torch.rand(batch, steps) < 0.1


def stepped(layer: nn.Module, u: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and states of `step`, one after the other, with the state zeroed where `is_first`."""
    outputs, states = [], []
    for t in range(u.shape[1]):
        erased = is_first[:, t].reshape(-1, *(1,) * (state.dim() - 1))
        y, state = layer.step(u[:, t], state.masked_fill(erased, 0))
        outputs.append(y)
        states.append(state)
    return torch.stack(outputs, 1), torch.stack(states, 1)


def test_every_layer_is_here() -> None:
    assert set(LAYERS) == {name.split("-")[0] for name in MAKERS}, "add the new layer to MAKERS"


@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 1000])
def test_a_window_equals_its_steps(layer: nn.Module, steps: int) -> None:
    """Outputs, the last state, and states at some steps (one of them twice) or at all."""
    u, state, is_first = sequence(layer, 2, steps)
    keep = torch.randint(steps, (2, 5))
    keep[:, 1] = keep[:, 0]
    with torch.no_grad():
        expected, states = stepped(layer, u, state, is_first)
        for wanted, kept_states in ((keep, keep_steps(keep, states)), ("all", states), (None, None)):
            y, last, kept = layer(u, state, is_first, wanted)
            torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(last, states[:, -1], rtol=1e-10, atol=1e-10)
            if kept_states is None:
                assert kept is None
            else:
                torch.testing.assert_close(kept, kept_states, rtol=1e-10, atol=1e-10)


def test_two_windows_equal_one(layer: nn.Module) -> None:
    u, state, is_first = sequence(layer, 2, 80)
    whole, states, _ = layer(u, state, is_first)
    left, between, _ = layer(u[:, :37], state, is_first[:, :37])
    right, after, _ = layer(u[:, 37:], between, is_first[:, 37:])
    torch.testing.assert_close(torch.cat([left, right], 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, states, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("keep", [torch.tensor([[3, 33, 36], [0, 36, 5]]), "all"], ids=["some", "all"])
def test_gradients_of_a_window_equal_those_of_its_steps(layer: nn.Module, keep: Tensor | str) -> None:
    """Of outputs and kept states, to inputs, initial state and parameters."""
    u, state, is_first = sequence(layer, 2, 37)
    leaves = [u.requires_grad_(), state.requires_grad_(), *layer.parameters()]
    y, last, kept = layer(u, state, is_first, keep)
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


def test_gradients_by_finite_differences(layer: nn.Module) -> None:
    u, state, is_first = sequence(layer, 2, 3)
    is_first = torch.tensor([[False, True, False], [False, False, False]])
    keep = torch.tensor([[1], [0]])
    leaves = [u.requires_grad_(), state.requires_grad_()]
    assert torch.autograd.gradcheck(lambda u, state: layer(u, state, is_first, keep), leaves, fast_mode=True)


@pytest.mark.parametrize("reset", [0, 1, 31, 32, 40, 69])
def test_nothing_passes_a_reset(layer: nn.Module, reset: int) -> None:
    """NaN before it changes no bit after it, nor in other rows, and no gradient goes back across it."""
    u, state, is_first = sequence(layer, 2, 70)
    is_first[:] = False
    is_first[0, reset] = is_first[0, reset // 2] = True
    keep = torch.tensor([[reset, 69], [0, 69]])
    for leaf in (u, state):
        leaf.requires_grad_()
    y, last, kept = layer(u, state, is_first, keep)
    after = y[:, reset:].square().sum() + last.square().sum() + kept.square().sum()
    by_inputs, by_state = torch.autograd.grad(after, [u, state])
    with torch.no_grad():
        u[0, :reset], state[0] = torch.nan, torch.nan
        spoilt_y, spoilt_last, spoilt_kept = layer(u, state, is_first, keep)
    assert torch.equal(spoilt_y[0, reset:], y[0, reset:]) and torch.equal(spoilt_y[1], y[1])
    assert torch.equal(spoilt_last, last) and torch.equal(spoilt_kept, kept)
    assert not by_inputs[0, :reset].any() and not by_state[0].any()
    assert by_inputs[0, reset:].isfinite().all() and by_inputs[0, reset].any()


def test_float32_over_4096_steps(layer: nn.Module) -> None:
    """Parallel in float32 against recurrent in float64, relative to the largest output."""
    u, state, is_first = sequence(layer, 1, 4096)
    is_first[:] = False
    with torch.no_grad():
        exact, states = stepped(layer, u, state, is_first)
        single, last, _ = layer.float()(u.float(), state.float(), is_first)
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()
    assert (last - states[:, -1]).abs().max() < 1e-4 * states.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_float32_at_the_sizes_of_the_preset(name: str) -> None:
    """A window equals its steps in the precision of training as well, over 4096 steps with some 30 resets."""
    options = load(backbone="s4wm", presets=["cpu"]).s4wm
    own = dict(options[name])
    width = own.pop("width", 0) or options.width
    torch.manual_seed(0)
    layer = LAYERS[name](width, **own)
    u, state, is_first = sequence(layer, 1, 4096, width=width)
    is_first[:, : 4096 - 300] = False
    with torch.no_grad():
        expected, states = stepped(layer, u.float(), state, is_first)
        y, last, kept = layer(u.float(), state, is_first, "all")
    assert (y - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (kept - states).abs().max() < 1e-4 * states.abs().max()
    assert (last - states[:, -1]).abs().max() < 1e-4 * states.abs().max()


def test_stable_whatever_training_does(layer: nn.Module) -> None:
    """Without inputs every state becomes shorter, at the start and wherever the parameters wander."""
    state = torch.randn_like(layer.initial(50))
    for _ in range(3):
        with torch.no_grad():
            _, after = layer.step(torch.zeros(50, WIDTH, dtype=torch.float64), state)
            before, after = (x.flatten(2 if x.dim() > 3 else 1) for x in (state, after))
            assert bool((after.norm(dim=-1) < before.norm(dim=-1)).all())
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)


def test_discretisation_follows_parameters_set_in_place(layer: nn.Module) -> None:
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


def test_discretisation_follows_a_fused_optimiser(layer: nn.Module) -> None:
    """torch's fused AdamW changes parameters without counting their version up."""
    layer.float()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    u, state, is_first = (x.float() if x.is_floating_point() else x for x in sequence(layer, 2, 8))
    for _ in range(3):
        layer(u, state, is_first)[0].square().sum().backward()
        optimiser.step()
        expected, _, _ = layer(u, state, is_first)
        with torch.no_grad():
            actual, _ = stepped(layer, u, state, is_first)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_s5_against_scipy() -> None:
    """The real block-diagonal system of all modes and their conjugates, held and simulated by scipy."""
    torch.manual_seed(0)
    layer = S5(WIDTH, state_size=4, blocks=2, dt_min=0.05, dt_max=0.5).double()
    with torch.no_grad():
        layer.log_decay += 0.3 * torch.randn_like(layer.log_decay)
        dt = layer.log_dt.exp().numpy()  # [P]; time is counted in steps, so it scales the rates of each mode
        real, imag = -layer.log_decay.exp().numpy() * dt, layer.frequency.numpy() * dt
        b = layer.b.unflatten(0, (4, 2)).numpy() * dt[:, None, None]  # [P, 2, D]
        c = layer.c.unflatten(1, (4, 2)).numpy()  # [D, P, 2]
    # x = p + iq: x' = (r + iw) x + (b0 + i b1) u is p' = rp - wq + b0 u, q' = wp + rq + b1 u.
    continuous = (
        linalg.block_diag(*([[r, -w], [w, r]] for r, w in zip(real, imag, strict=True))),
        b.reshape(8, WIDTH),
        2 * c.reshape(WIDTH, 8),
        np.diag(layer.d.detach().numpy()),
    )
    discrete = signal.cont2discrete(continuous, dt=1, method="zoh")
    rng = np.random.default_rng(0)
    u, x0 = rng.normal(size=(50, WIDTH)), rng.normal(size=(4, 2))
    # scipy's output at t reads the state before input t; ours reads the state after it.
    states = [x0.reshape(8)]
    for row in u:
        states.append(discrete[0] @ states[-1] + discrete[1] @ row)
    expected = np.array(states[1:]) @ discrete[2].T + u @ discrete[3].T
    _, outputs, scipy_states = signal.dlsim((*discrete[:4], 1), u, x0=x0.reshape(8))
    np.testing.assert_allclose(scipy_states, states[:-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(outputs - u @ discrete[3].T, np.array(states[:-1]) @ discrete[2].T, atol=1e-9)
    y, x, _ = layer(
        torch.as_tensor(u)[None], torch.as_tensor(x0)[None], torch.zeros(1, len(u), dtype=torch.bool)
    )
    np.testing.assert_allclose(y[0].detach(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x[0].detach().flatten(), states[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("init", ["legs", "lin"])
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_s4d_impulse_response(init: str, discretisation: str) -> None:
    """Channel by channel K[k] = 2 Re sum C Abar^k Bbar, B = 1, by matrix exponential or matrix inverse."""
    torch.manual_seed(0)
    layer = S4D(WIDTH, state_size=4, init=init, discretisation=discretisation).double()
    steps = 40
    with torch.no_grad():
        a = torch.complex(-layer.log_decay.exp(), layer.frequency).numpy()  # [D, N]
        dt = layer.log_dt.exp().numpy()  # [D, 1]
        c = torch.view_as_complex(layer.c).numpy()
        kernel = np.zeros((steps, WIDTH))
        for channel in range(WIDTH):
            matrix = np.diag(a[channel]) * dt[channel]
            if discretisation == "zoh":  # exp of [[A, B], [0, 0]] dt holds Abar and Bbar
                held = linalg.expm(np.block([[matrix, np.full((4, 1), dt[channel])], [np.zeros((1, 5))]]))
                abar, bbar = held[:4, :4], held[:4, 4]
            else:
                inverse = np.linalg.inv(np.eye(4) - matrix / 2)
                abar, bbar = inverse @ (np.eye(4) + matrix / 2), inverse @ np.full(4, dt[channel])
            for k in range(steps):
                kernel[k, channel] = 2 * (c[channel] @ np.linalg.matrix_power(abar, k) @ bbar).real
        impulse = torch.zeros(1, steps, WIDTH, dtype=torch.float64)
        impulse[:, 0] = 1
        y, _, _ = layer(impulse, layer.initial(1), torch.zeros(1, steps, dtype=torch.bool))
        kernel[0] += layer.d.numpy()
    np.testing.assert_allclose(y[0], kernel, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [S5, S4D])
def test_unit_scale_gives_every_mode_unit_variance(make: type[S5] | type[S4D]) -> None:
    """White noise into a mode leaves its state with variance 1, whether the mode is fast or slow."""
    torch.manual_seed(0)
    layer = make(WIDTH, state_size=4, dt_min=0.05, dt_max=1.0, input_scale="unit").double()
    decay, scale, *_ = layer.discretise()
    stationary = scale.abs().square() / (1 - decay.abs().square())
    torch.testing.assert_close(stationary, torch.ones_like(stationary))
    held, zoh, *_ = make(WIDTH, state_size=4).double().discretise()
    assert bool((zoh.abs().square() / (1 - held.abs().square()) < 0.2).all())


@pytest.mark.parametrize("size", [2, 8, 64])
def test_hippo_against_the_textbook(size: int) -> None:
    """The eigen decomposition gives back HiPPO-LegS plus its rank-one term; Re = -1/2, Im > 0, ascending."""
    values, vectors = (x.numpy() for x in hippo_normal(size))
    legs = np.zeros((size, size))
    for n in range(size):
        for k in range(n):
            legs[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1))
        legs[n, n] = -(n + 1)
    p = np.sqrt(np.arange(size) + 0.5)
    normal = legs + p[:, None] * p
    rebuilt = 2 * ((vectors * values) @ vectors.conj().T).real  # the conjugate halves are each other's mirror
    np.testing.assert_allclose(rebuilt, normal, atol=1e-10 * size)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(size // 2), atol=1e-10)
    np.testing.assert_allclose(values.real, -0.5)
    assert (values.imag > 0).all() and (np.diff(values.imag) > 0).all()
    with pytest.raises(ValueError, match="even order"):
        hippo_normal(size + 1)


def test_initial_poles_are_hippo_s() -> None:
    layer = S5(WIDTH, state_size=8, blocks=2)
    expected = hippo_normal(8)[0]
    for block in range(2):
        part = slice(4 * block, 4 * block + 4)
        torch.testing.assert_close(layer.frequency[part], expected.imag.float())
        torch.testing.assert_close(-layer.log_decay[part].exp(), expected.real.float())
    lin = S4D(WIDTH, state_size=4, init="lin")
    torch.testing.assert_close(lin.frequency[2], math.pi * torch.arange(4.0))


def test_step_sizes_are_log_uniform() -> None:
    torch.manual_seed(0)
    steps = log_steps(10_000, 1e-3, 1e-1)
    assert math.log(1e-3) <= steps.min() and steps.max() <= math.log(1e-1)
    assert abs(steps.mean() - math.log(1e-2)) < 0.05
    assert abs(steps.std() - math.log(100) / math.sqrt(12)) < 0.05
    with pytest.raises(ValueError, match="0 < dt_min <= dt_max"):
        log_steps(3, 0.1, 0.01)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: S5(4, state_size=6, blocks=4), "divisible by blocks"),
        (lambda: S5(4, state_size=2, input_scale="none"), "s5.input_scale must be one of bbar, unit"),
        (lambda: S4D(4, state_size=2, init="hippo"), "s4d.init must be one of legs, lin"),
        (lambda: S4D(4, state_size=2, discretisation="none"), "discretisation must be one of zoh, bilinear"),
    ],
)
def test_wrong_options_are_named(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("name", MAKERS)
def test_a_stack_equals_its_steps_and_resets(name: str) -> None:
    torch.manual_seed(0)
    stack = Stack(WIDTH, 3, MAKERS[name]).double()
    u = torch.randn(2, 20, WIDTH, dtype=torch.float64)
    state = torch.randn_like(stack.initial(2))
    is_first = torch.rand(2, 20) < 0.2
    keep = torch.tensor([[4, 19], [0, 7]])
    assert state.shape[:2] == (2, 3) and stack(u, state, is_first)[2] is None
    expected, states = stepped(stack, u, state, is_first)
    for wanted, kept_states in ((keep, keep_steps(keep, states)), ("all", states)):
        y, last, kept = stack(u, state, is_first, wanted)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(last, states[:, -1], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(kept, kept_states, rtol=1e-10, atol=1e-10)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    stack = Stack(WIDTH, 3, MAKERS["s5"], checkpointing=True).double()
    u = torch.randn(2, 200, WIDTH, dtype=torch.float64, requires_grad=True)
    state, is_first = torch.randn_like(stack.initial(2)), torch.rand(2, 200) < 0.1
    leaves, gradients, kept_bytes = [u, *stack.parameters()], [], []
    for checkpointing in (True, False):
        stack.checkpointing = checkpointing
        sizes: dict[int, int] = {}

        def pack(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = x.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            y, last, kept = stack(u, state, is_first, torch.tensor([[7], [150]]))
        kept_bytes.append(sum(sizes.values()))
        gradients.append(torch.autograd.grad(y.square().sum() + last.sum() + kept.sum(), leaves))
    for with_it, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-12, atol=1e-12)
    assert kept_bytes[0] < kept_bytes[1] / 3


def test_how_long_modes_remember_is_told(layer: nn.Module) -> None:
    """`log_abar` is below 0 for every mode, and its largest that of the mode which decays most slowly.

    S4 is stepped from each unit state: that gives its dense Abar.
    """
    with torch.no_grad():
        told = layer.log_abar()
        assert (told < 0).all()
        if isinstance(layer, Mamba2):
            state = torch.ones_like(layer.initial(1))
            _, after = layer.step(torch.zeros(1, WIDTH, dtype=torch.float64), state)
            expected = after.max().log()
        elif isinstance(layer, S4):
            size = layer.initial(1)[0, 0].numel()  # of a channel's state
            units = torch.eye(size, dtype=torch.float64).view(size, 1, *layer.state_shape[1:])
            units = units.expand(-1, *layer.state_shape)
            _, after = layer.step(torch.zeros(size, WIDTH, dtype=torch.float64), units)
            moduli = np.abs(np.linalg.eigvals(after.flatten(2).movedim(1, 0).numpy()))
            expected = torch.as_tensor(moduli.max()).log()
        else:
            expected = layer.discretise()[0].abs().max().log()
        torch.testing.assert_close(told.max(), expected, rtol=1e-9, atol=1e-12)
