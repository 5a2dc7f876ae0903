"""bench: every measure runs and says what it means; calls are interleaved, memory is counted."""

import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import configs
import run
from studies import bench


def debug(backbone: str, layer: str = "s5", **changed: object) -> configs.Config:
    overrides = {"s4wm.layer": layer, "device": "cpu", **changed}
    return configs.load(backbone=backbone, presets=["debug"], overrides=overrides)


@pytest.mark.parametrize("what", bench.WHAT)
def test_every_measure(what: str) -> None:
    chosen = {"first": debug("s4wm"), "second": debug("s4wm", "s4d") if what == "layers" else debug("rssm")}
    result = bench.bench(what, chosen, [3, 9], repeats=2)
    assert json.loads(json.dumps(result)) == result
    names = ["replay"] if what == "replay" else list(chosen)
    lengths = {"imagination": [5], "acting": [1]}.get(what, [3, 9])
    assert [(row["length"], row["name"]) for row in result["rows"]] == [
        (length, name) for length in lengths for name in names
    ]
    rows = {"imagination": 8, "acting": 1}.get(what, 4)  # of the preset
    for row in result["rows"]:
        assert row["median"] > 0 and row["spread"] >= 0 and math.isfinite(row["ratio"])
        assert row["tokens_per_second"] == pytest.approx(rows * row["length"] / row["median"])
        assert (row["parameters"] > 0) == (row["matmul_share"] > 0) == (what != "replay")
        assert f"{row['name']:22} {row['length']:>6} {1e3 * row['median']:>10.2f}" in bench.table(result)
    assert result["rows"][0]["ratio"] == 1


def test_run_names_the_measures_that_there_are() -> None:
    assert (*bench.WHAT, "backbones", "overhead", "states") == run.MEASURES


def test_calls_are_interleaved_and_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = {"a": iter([1.0, 2.0, 9.0]), "b": iter([4.0, 4.0, 4.0])}

    def timed(call: Callable[[], object], device: str) -> float:
        call()
        return next(clock[calls[-1]])

    monkeypatch.setattr(bench, "seconds", timed)
    monkeypatch.setattr(bench, "peak_memory", lambda *_: 7)
    cases = [bench.Case(name, 5, 10, 3, lambda name=name: calls.append(name)) for name in "ab"]
    rows = bench.measure(cases, 3, "cpu", matmul=1.0)
    assert "".join(calls[-6:]) == "ababab"
    assert [(row["median"], row["ratio"], row["tokens_per_second"]) for row in rows] == [
        (2, 1, 5),
        (4, 2, 2.5),
    ]
    assert rows[0]["spread"] == pytest.approx((5.5 - 1.5) / 2) and rows[1]["spread"] == 0
    assert rows[0]["peak_memory"] == 7


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
def test_peak_memory_is_what_a_call_takes_at_most() -> None:
    """In a process of its own: what malloc keeps for itself depends on all that went before."""
    code = """
import torch
from studies import bench
def call(count):
    for _ in range(count):
        torch.ones(20_000_000)  # 80 MB, given back before the next
print(bench.peak_memory(lambda: call(3), "cpu"), bench.peak_memory(lambda: call(0), "cpu"))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    three, none = (int(number) for number in done.stdout.split())
    assert 70e6 < three < 120e6
    assert none < 10e6


def test_matrix_products_are_counted() -> None:
    left = torch.randn(300, 200)
    case = bench.Case("a", 1, 1, 0, lambda: left @ left.T)
    (row,) = bench.measure([case], 1, "cpu", matmul=1e9)
    assert row["matmul_share"] == pytest.approx(2 * 300 * 300 * 200 / 1e9 / row["median"])


def test_what_is_compiled_stays_compiled() -> None:
    """Counting operations does not make torch give up on compiled code."""
    torch._dynamo.reset()
    calls: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        def run(*inputs: torch.Tensor) -> object:
            calls.append("compiled")
            return graph(*inputs)

        return run

    square, left = torch.compile(lambda x: x @ x, backend=backend), torch.randn(4, 4)
    (row,) = bench.measure([bench.Case("a", 1, 1, 0, lambda: square(left))], 3, "cpu", matmul=1.0)
    assert row["matmul_share"] * row["median"] == pytest.approx(2 * 4**3)
    assert len(calls) == bench.WARM_UP + 1 + 3  # memory, then times; the count itself is eager


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="bench can measure layers, .* got 'speed'"):
        bench.bench("speed", {"a": debug("s4wm")}, [3], 1)
    with pytest.raises(ValueError, match="the backbone 'a' has no state-space layers"):
        bench.bench("layers", {"a": debug("rssm")}, [3], 1)


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["layers", "update"])
def test_on_a_gpu(what: str) -> None:
    result = bench.bench(what, {"a": debug("s4wm", device="cuda")}, [9], 2, "cuda")
    assert result["rows"][0]["median"] > 0 and result["rows"][0]["peak_memory"] > 0
