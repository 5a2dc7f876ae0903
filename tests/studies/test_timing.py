"""Timing: calls are taken in turn, memory and operations are counted, what is compiled stays compiled."""

import itertools
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import profile

import configs
from studies import timing


def test_calls_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = {"a": iter([1.0, 2.0, 9.0]), "b": iter([4.0, 4.0, 4.0])}

    def timed(call: Callable[[], object], device: str) -> float:
        call()
        return next(clock[calls[-1]])

    monkeypatch.setattr(timing, "seconds", timed)
    monkeypatch.setattr(timing, "peak_memory", lambda *_: 7)
    a, b = timing.measure([lambda: calls.append("a"), lambda: calls.append("b")], 3, "cpu")
    assert "".join(calls[-6:]) == "ababab"
    assert (a.seconds, a.median, b.median, a.memory) == ([1.0, 2.0, 9.0], 2, 4, 7)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
def test_peak_memory_is_what_a_call_takes_at_most() -> None:
    """In a process of its own: what malloc keeps for itself depends on all that went before."""
    code = """
import torch
from studies import timing
def call(count):
    for _ in range(count):
        torch.ones(20_000_000)  # 80 MB, given back before the next
print(timing.peak_memory(lambda: call(3), "cpu"), timing.peak_memory(lambda: call(0), "cpu"))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    three, none = (int(number) for number in done.stdout.split())
    assert 70e6 < three < 120e6
    assert none < 10e6


def test_operations_of_products_and_convolutions() -> None:
    left = torch.randn(300, 200)
    assert timing.operations(lambda: left @ left.T) == 2 * 300 * 300 * 200
    picture, kernel = torch.randn(1, 3, 8, 8), torch.randn(5, 3, 3, 3)
    assert timing.operations(lambda: torch.conv2d(picture, kernel)) == 2 * 6 * 6 * 5 * 3 * 3 * 3


def test_operations_on_a_view_taken_without_gradients() -> None:
    """As the decoder sees one; torch's own counter fails at the module that is called with it."""
    layer = nn.Linear(4, 4, bias=False)

    def call() -> None:
        once = layer(torch.randn(2, 4))
        with torch.no_grad():
            layer(once.view(2, 4))

    assert timing.operations(call) == 2 * (2 * 2 * 4 * 4)


def test_waits_for_a_gpu_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch warns of each, in the mode in which it does; other warnings are none."""
    modes: list[str] = []
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", modes.append)
    monkeypatch.setattr(timing, "profile", lambda activities: profile(activities=activities[:1]))

    def call() -> None:
        for _ in range(3):
            if modes == ["warn"]:
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    with pytest.warns(UserWarning, match="something else"):
        found = timing.traced(call, "cuda")
    ((line, count),) = found["waits"].items()
    assert line.startswith(f"{__file__}:") and count == 3
    assert (found["launches"], found["on_device"], modes) == (0, 0, ["warn", "default"])
    with pytest.warns(UserWarning, match="something else"):
        assert timing.traced(call, "cpu") == {"launches": 0, "on_device": None, "waits": {}}


@pytest.mark.gpu
def test_launches_of_a_gpu() -> None:
    x = torch.ones(1000, device="cuda")
    found = timing.traced(lambda: [x + 1, x + 2, float(x[0])], "cuda")
    assert found["launches"] == 2 and 0 < found["on_device"] < 1e-3
    ((line, count),) = found["waits"].items()
    assert line.startswith(f"{__file__}:") and count == 1


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """What the backend of `counting` has run."""
    yield []
    torch.compiler.reset()


def counting(ran: list[str]) -> Callable[[torch.fx.GraphModule, object], Callable[..., object]]:
    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        def run(*inputs: torch.Tensor) -> object:
            ran.append("compiled")
            return graph(*inputs)

        return run

    return backend


def test_what_is_compiled_stays_compiled(compiled: list[str]) -> None:
    """Counting operations does not make torch give up on compiled code."""
    square, left = torch.compile(lambda x: x @ x, backend=counting(compiled)), torch.randn(4, 4)
    (cost,) = timing.measure([lambda: square(left)], 3, "cpu")
    assert cost.operations == 2 * 4**3
    assert len(compiled) == timing.WARM_UP + 1 + 3  # memory, then times; the count itself is eager


@pytest.mark.parametrize(("subjects", "times"), [(12, 1), (1, 12)])
def test_a_function_is_compiled_for_every_subject(compiled: list[str], subjects: int, times: int) -> None:
    """Torch gives up on it after eight by default, and says nothing; also if others were measured before."""
    step = torch.compile(lambda layer, x: layer(x), backend=counting(compiled))
    x, widths = torch.randn(2, 4), itertools.count(1)
    for _ in range(times):
        compiled.clear()
        layers = [nn.Linear(4, next(widths)) for _ in range(subjects)]
        with torch.no_grad():
            timing.measure([partial(step, layer, x) for layer in layers], 3, "cpu")
        assert len(compiled) == subjects * (timing.WARM_UP + 1 + 3)


def test_what_would_run_uncompiled_is_an_error(compiled: list[str]) -> None:
    step = torch.compile(lambda x, n: x * n, backend=counting(compiled), dynamic=False)
    with pytest.raises(Exception, match="recompile_limit"):
        timing.measure([lambda: [step(torch.ones(2), n) for n in range(20)]], 1, "cpu")


@pytest.mark.parametrize("task", ["memory_chain:n=3", "Pendulum-v1", "rooms"])
def test_made_up_batches_are_like_those_of_replay(task: str) -> None:
    config = configs.load(task, presets=["debug"], overrides={"device": "cpu"})
    subject = timing.Subject("a", config)
    batch = subject.batch(3, 40)
    assert all(value.shape[:2] == (3, 40) for value in batch.values())
    for key, leaf in subject.observations.items():
        assert batch[f"obs/{key}"].dtype == leaf.dtype and batch[f"obs/{key}"].shape[2:] == leaf.shape
    assert batch["is_first"][:, 0].all() and not batch["is_terminal"].any()
    assert (batch["is_first"][:, 1:] == batch["is_last"][:, :-1]).all()
    assert subject.starts(40).shape[0] == subject.rows
