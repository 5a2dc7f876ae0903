"""torch.compile: the same update within rounding, random numbers included; what is missing is named."""

import shutil

import pytest
import torch

from agent.compiling import CPP_COMPILERS, check_compiler
from tests.agent.test_agent import VECTOR, make, make_batch

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, CPP_COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.parametrize("action, graphs", [("discrete", 1), ("box", 2)])
def test_a_compiled_agent_learns_the_same(action: str, graphs: int) -> None:
    """Three updates with the same dreams: what steps hold of the parameters is renewed between them."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    metrics, parameters = [], []
    for compile_it in (False, True):
        agent = make(space=VECTOR, compile=compile_it, action=action)
        batch = make_batch(agent, VECTOR)
        for _ in range(3):
            agent.update(batch)
        metrics.append(agent.metrics())
        parameters.append(dict(agent.actor_critic.actor.named_parameters()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, (
        "not one graph for every step and update (of box one more: the first state has no gradient)"
    )
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-5)
    for name, value in parameters[0].items():
        torch.testing.assert_close(parameters[1][name], value, rtol=1e-3, atol=1e-5)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ValueError, match="needs a C\\+\\+ compiler .* none of g\\+\\+, clang\\+\\+ is in the PATH"
    ):
        check_compiler(CPU)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(ValueError, match="none of /nowhere/c\\+\\+ is"):
        check_compiler(CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package triton"):
        check_compiler(torch.device("cuda"))
