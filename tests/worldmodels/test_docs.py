"""docs/adding_a_backbone.md does what it says: its backbone and its layer keep the contract."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gymnasium import spaces

import configs
from agent.agent import Agent
from tests.worldmodels import contract
from worldmodels import BACKBONES
from worldmodels.ssm import LAYERS

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_backbone.md").read_text()


def blocks(language: str) -> dict[str, str]:
    """The code blocks of the page by the file that their first line names."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return {re.match(r'(?:"""|# )([\w./, ]+?)(?::|\n)', block)[1]: block for block in found}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The page's modules by the file that they would be in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {}
    for path, source in blocks("python").items():
        name = f"{Path(path).stem}_of_the_docs"
        (tmp_path / f"{name}.py").write_text(source)
        found[path] = __import__(name)
    yield found
    for module in found.values():
        sys.modules.pop(module.__name__)
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the configuration with the page's options in it."""
    told = blocks("yaml")
    of_layers = "configs/defaults.yaml, s4wm", "configs/backbones.yaml, s4wm"
    of_backbones = "configs/defaults.yaml", "configs/backbones.yaml", "configs/sizes.yaml, debug"
    assert told.keys() == {*of_layers, *of_backbones}
    for path in configs.DIRECTORY.glob("*.yaml"):
        text = path.read_text()
        if path.name == "sizes.yaml":
            line = told["configs/sizes.yaml, debug"].splitlines()[1]
            text = text.replace("debug:\n", f"debug:\n  {line}\n")
        else:
            text += told.get(f"configs/{path.name}", "")
        if path.name == "backbones.yaml":
            text += told["configs/backbones.yaml, s4wm"]
        if path.name == "defaults.yaml":
            text = text.replace("{s5, ", "{leaky, s5, ")
            text = text.replace("\n  s5:\n", f"\n{told['configs/defaults.yaml, s4wm']}  s5:\n")
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(configs, "DIRECTORY", tmp_path)


@pytest.fixture
def case(written: dict[str, ModuleType], options: None, monkeypatch: pytest.MonkeyPatch) -> contract.Case:
    """Follow the page: the module, the line of the table, the blocks of options."""
    monkeypatch.setitem(BACKBONES, "gru", written["gru.py"].GRU)
    return contract.Case("gru")


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_layer_keeps_the_contract(
    check, written: dict[str, ModuleType], options: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYERS, "leaky", written["worldmodels/ssm/leaky.py"].Leaky)
    check(contract.Case("s4wm_leaky"))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_example_keeps_the_contract(check, case: contract.Case) -> None:
    check(case)


def test_the_example_is_an_agent_s_backbone(case: contract.Case) -> None:
    space = spaces.Dict({"vector": spaces.Box(-1, 1, (3,), np.float32)})
    agent = Agent(space, spaces.Discrete(2), case.config(), "cpu")
    assert type(agent.backbone).__name__ == "GRU"
    random = np.random.default_rng(0)
    rows, steps = 4, 8
    first = random.random((rows, steps)) < 0.3
    for _ in range(3):
        agent.update(
            {
                "obs/vector": random.normal(size=(rows, steps, 3)).astype(np.float32),
                "action": np.where(first, 0, random.integers(2, size=(rows, steps))),
                "reward": random.normal(size=(rows, steps)).astype(np.float32),
                "is_first": first,
                "is_last": np.zeros((rows, steps), bool),
                "is_terminal": np.zeros((rows, steps), bool),
            }
        )
    assert all(np.isfinite(value) for value in agent.metrics().values())
    seen = {"obs/vector": np.zeros((2, 3), np.float32), "is_first": np.ones(2, bool)}
    carry, action = agent.act(agent.initial(2), seen)
    assert action.shape == (2,) and carry.state.keys() == {"latent", "hidden"}


def test_the_page_names_what_there_is() -> None:
    """The table of the contract lists what a backbone writes, and files are where the page says."""
    for name in ("initial", "observe", "observe_step", "imagine_step", "policy_input"):
        assert re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE), name
        assert hasattr(contract.Backbone, name)
    root = Path(__file__).parents[2]
    for path in re.findall(r"`((?:worldmodels|configs|tests)/[\w/.]+\.(?:py|yaml))`", PAGE):
        assert (root / path).exists(), path
