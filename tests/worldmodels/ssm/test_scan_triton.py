"""The Triton kernels, run by Triton's interpreter on the CPU: equal to the loops, and nothing passes a reset.

On a GPU they are run as they are, here and by `test_diagonal.py` and `test_contract.py`.
"""

import importlib.util
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.worldmodels.ssm.test_diagonal import arguments
from worldmodels.ssm import diagonal

KERNELS = diagonal.__file__.replace("diagonal.py", "scan_triton.py")
TYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """A copy of the module of its own, with its kernels interpreted, and tiles small enough for that."""
    pytest.importorskip("triton", reason="needs the package triton, whose interpreter runs on CPUs too")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec = importlib.util.spec_from_file_location("interpreted_scan_triton", KERNELS)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module.STEPS, module.MODES = 4, 2
    return module


def check(kernels: ModuleType, device: str, dtype: torch.dtype, plain: tuple[Tensor, ...]) -> None:
    """States and gradients against those of the loops, which compute in double precision on the CPU."""
    decay, inputs, state, is_first = plain
    expected, resets = diagonal.loop_forward(decay, inputs, state, is_first)
    grad = torch.randn_like(expected).transpose(0, 1).contiguous().transpose(0, 1)
    wanted = diagonal.loop_backward(decay, state, is_first, expected, grad, resets)
    decay, inputs, state, grad = (x.to(device, dtype) for x in (decay, inputs, state, grad))
    is_first = is_first.to(device)
    states = kernels.forward(decay, inputs, state, is_first)
    found = states, *kernels.backward(decay, state, is_first, states, grad)
    tolerance = 1e-11 if dtype in (torch.float64, torch.complex128) else 1e-4
    for got, right in zip(found, (expected, *wanted), strict=True):
        torch.testing.assert_close(got.cpu(), right.to(dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_equals_the_loops(kernels: ModuleType, steps: int, varying: bool, dtype: torch.dtype) -> None:
    """With resets at the ends and two in a row, a start state, modes left over."""
    plain = arguments(2, steps, (3,), varying=varying, real=not dtype.is_complex)
    check(kernels, "cpu", dtype, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [1, 64, 150])
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_equals_the_loops_on_a_gpu(steps: int, varying: bool, dtype: torch.dtype) -> None:
    """The same of the kernels as they are: a part of a tile, a whole one, two and a rest."""
    from worldmodels.ssm import scan_triton

    plain = arguments(4, steps, (19,), varying=varying, real=not dtype.is_complex)
    check(scan_triton, "cuda", dtype, plain)


@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
def test_arguments_of_any_memory_layout(kernels: ModuleType, varying: bool) -> None:
    """Transposed, every other number, repeated, conjugated: states and gradients are those of plain ones."""
    plain = arguments(2, 5, (3,), varying=varying)
    decay, _, state, is_first = plain
    states = kernels.forward(*plain)
    grad = torch.randn(2, 1, 3, dtype=states.dtype).expand_as(states).contiguous()
    expected = kernels.backward(decay, state, is_first, states, grad)
    layouts = (
        lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
        lambda x: torch.stack([x, ~x if x.dtype == torch.bool else -x], -1)[..., 0],
        lambda x: x.conj().resolve_conj().conj() if x.is_complex() else x,
    )
    for other in layouts:
        again = kernels.forward(*(other(x) for x in plain))
        assert torch.equal(again, states)
        actual = kernels.backward(
            *(other(x) for x in (decay, state, is_first, states)), grad[:, :1].expand_as(grad)
        )
        for got, wanted in zip(actual, expected, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("reset", [0, 3, 4, 8])
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
def test_nothing_passes_a_reset(kernels: ModuleType, reset: int, varying: bool) -> None:
    """NaN before it, in decay, inputs and state, changes no bit after it, nor of another row's."""

    def run() -> tuple[Tensor, Tensor, Tensor]:
        states = kernels.forward(decay, inputs, state, is_first)
        grad = torch.ones_like(states)
        grad[0, :reset] = 0
        _, adjoint, by_state = kernels.backward(decay, state, is_first, states, grad)
        return states, adjoint, by_state

    decay, inputs, state, is_first = arguments(2, 9, (3,), varying=varying)
    is_first[0] = False
    is_first[0, reset] = True
    clean, _, _ = run()
    inputs[0, :reset], state[0] = torch.nan, torch.nan
    if varying:
        decay[0, : reset + 1] = torch.nan
    states, adjoint, by_state = run()
    assert torch.equal(states[0, reset:], clean[0, reset:]) and torch.equal(states[1], clean[1])
    assert adjoint[0, reset:].isfinite().all() and adjoint[0, reset:].all()
    if not varying:  # a decay of NaN is in the gradients of its own episode
        assert not adjoint[0, :reset].any() and not by_state[0].any()
