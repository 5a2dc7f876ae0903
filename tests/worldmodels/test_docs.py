"""docs/adding_a_backbone.md does what it says: its backbone keeps the contract, learns and acts."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import configs
from agent.agent import Agent
from tests.worldmodels import contract
from worldmodels import BACKBONES

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_backbone.md").read_text()


def blocks(language: str) -> dict[str, str]:
    """The code blocks of the page by the file that their first line names."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return {re.match(r'(?:"""|# )([\w./, ]+?)(?::|\n)', block)[1]: block for block in found}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Follow the page in a copy: the module, the line of the table, the blocks of options."""
    (source,) = blocks("python").values()
    (tmp_path / "gru_of_the_docs.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("gru_of_the_docs")
    monkeypatch.setitem(BACKBONES, "gru", module.GRU)
    options = blocks("yaml")
    assert set(options) == {"configs/defaults.yaml", "configs/backbones.yaml", "configs/sizes.yaml, debug"}
    for path in configs.DIRECTORY.glob("*.yaml"):
        text = path.read_text()
        if path.name == "sizes.yaml":
            line = options["configs/sizes.yaml, debug"].splitlines()[1]
            text = text.replace("debug:\n", f"debug:\n  {line}\n")
        else:
            text += options.get(f"configs/{path.name}", "")
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(configs, "DIRECTORY", tmp_path)
    yield contract.Case("gru")
    sys.modules.pop("gru_of_the_docs", None)
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)


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
