"""The direction of imports: which room may know which, and who may use torch.

An import inside a function counts like any other, but in run.py, which may import what is heavy only there,
so that help and error messages come at once, and in agent/__init__.py, which hands out what a user imports.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {  # room -> the modules and rooms of ours that it may import
    "configs": set(),
    "envs": {"configs.nearest"},
    "replay": set(),
    "worldmodels": set(),
    "agent": {"worldmodels"},
    "agent.run": {"agent", "configs", "envs", "replay", "worldmodels"},
    "studies": {"agent", "configs", "envs", "replay", "worldmodels"},
    "run": {"agent", "configs", "studies"},
}
EAGER_IN_RUN = {"configs"}
LAZY_IN = {"agent/__init__.py": "agent.run"}  # what is imported there when it is asked for
TORCH = {"worldmodels", "agent", "agent.run", "studies", "run"}
ONLY = {  # the packages that a light room may use beside the standard library
    "configs": {"ruamel"},
    "replay": {"numpy", "gymnasium"},
    "envs": {
        "numpy",
        "gymnasium",
        "popgym",
        "minigrid",
        "dm_control",
        "dm_env",
        "labmaze",
        "memory_maze",
        "mujoco",
    },
}


class Import(NamedTuple):
    line: int
    module: str
    lazy: bool  # inside a function, or for the type checker only


def imports(tree: ast.Module, room: str) -> Iterator[Import]:
    """Every import statement of a file, a relative one as an import of its own room."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = room if node.level else node.module or ""
            for alias in node.names:
                yield Import(node.lineno, f"{base}.{alias.name}", lazy)
        elif isinstance(node, ast.If):
            lazy = lazy or ast.unparse(node.test).endswith("TYPE_CHECKING")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy = True
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy)

    return walk(tree, False)


def is_in(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def violations(root: Path) -> list[str]:
    """'path:line what' for each import that the house does not allow."""
    wrong = []
    for path in sorted(root.glob("*/**/*.py")) + sorted(root.glob("run.py")):
        relative = path.relative_to(root)
        name = ".".join(relative.with_suffix("").parts)
        rooms = [room for room in ALLOWED if is_in(name, room)]
        if not rooms:
            continue
        room = max(rooms, key=len)
        for line, module, lazy in imports(ast.parse(path.read_text(encoding="utf-8")), room):
            package = module.split(".")[0]
            inner = any(is_in(module, other) and other.startswith(f"{room}.") for other in ALLOWED)
            if (is_in(module, room) and not inner) or package in sys.stdlib_module_names:
                continue
            if lazy and is_in(module, LAZY_IN.get(str(relative), " ")):
                continue
            where = f"{relative}:{line}"
            if package in ALLOWED and not any(is_in(module, allowed) for allowed in ALLOWED[room]):
                wrong.append(f"{where} {room} may not import {module}")
            elif package == "torch" and room not in TORCH:
                wrong.append(f"{where} {room} may not import torch")
            elif package not in ALLOWED and room in ONLY and package not in ONLY[room]:
                wrong.append(f"{where} {room} may not import {package}")
            elif room == "run" and not lazy and package not in EAGER_IN_RUN:
                wrong.append(f"{where} run.py may import {package} inside a function only")
    return wrong


def test_imports_run_one_way() -> None:
    assert violations(ROOT) == []


def test_every_room_is_walked() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert rooms == set(ALLOWED) - {"run", "agent.run"}


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("envs/a.py", "import torch", "envs/a.py:1 envs may not import torch"),
        (
            "replay/b/c.py",
            "def f():\n    from torch import nn",
            "replay/b/c.py:2 replay may not import torch",
        ),
        ("replay/a.py", "import scipy.stats", "replay/a.py:1 replay may not import scipy"),
        (
            "worldmodels/a.py",
            "from agent.agent import Agent",
            "worldmodels/a.py:1 worldmodels may not import agent.agent.Agent",
        ),
        ("agent/a.py", "import numpy, envs", "agent/a.py:1 agent may not import envs"),
        ("agent/a.py", "import configs", "agent/a.py:1 agent may not import configs"),
        (
            "agent/a.py",
            "from agent.run import loop",
            "agent/a.py:1 agent may not import agent.run.loop",
        ),
        ("agent/run/a.py", "import studies", "agent/run/a.py:1 agent.run may not import studies"),
        (
            "envs/a.py",
            "from configs import Config",
            "envs/a.py:1 envs may not import configs.Config",
        ),
        ("studies/a.py", "import run", "studies/a.py:1 studies may not import run"),
        ("agent/__init__.py", "import agent.run", "agent/__init__.py:1 agent may not import agent.run"),
        ("run.py", "import torch", "run.py:1 run.py may import torch inside a function only"),
        (
            "run.py",
            "try:\n    import envs\nfinally: 0",
            "run.py:2 run may not import envs",
        ),
        ("run.py", "def f():\n    import worldmodels", "run.py:2 run may not import worldmodels"),
    ],
)
def test_the_walk_finds_a_wrong_import(tmp_path: Path, path: str, text: str, said: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert violations(tmp_path) == [said]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("envs/a.py", "import numpy as np\nfrom . import b\nfrom .b import c\nimport envs.b, os.path"),
        ("agent/a.py", "import torch\nfrom worldmodels.base import State"),
        ("agent/run/a.py", "import configs, envs\nfrom agent.agent import Agent\nfrom agent.run import b"),
        ("envs/a.py", "from configs.nearest import did_you_mean"),
        ("run.py", "import configs\ndef f():\n    import torch\n    from agent.run import loop"),
        ("agent/__init__.py", "def f():\n    from agent.run.trained import TrainedAgent"),
        ("run.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agent.run import loop"),
        (".venv/a.py", "import torch"),
        ("tests/a.py", "import torch"),
    ],
)
def test_the_walk_passes_a_right_import(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert violations(tmp_path) == []
