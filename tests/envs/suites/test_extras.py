"""What is said where a package, or all of an extra, is not installed."""

import sys

import pytest

import envs
from envs.tasks import gridworld


@pytest.mark.parametrize(
    ("task", "module", "extra"),
    [
        ("popgym:RepeatFirstEasy", "popgym.envs", "popgym"),
        ("minigrid:MemoryS7", "minigrid.wrappers", "minigrid"),
        ("distracting_memory", "minigrid.core.world_object", "minigrid"),
        ("multi_doors_keys", "minigrid.core.world_object", "minigrid"),
        ("dmc:walker_walk", "dm_control.suite", "dmc"),
        ("rooms:renderer=mujoco", "mujoco", "memory3d"),
        ("memory_maze:9x9", "memory_maze", "memory3d"),
    ],
)
def test_a_missing_package_names_the_extra(task, module, extra, monkeypatch):
    loaded = [name for name in sys.modules if name.startswith(f"{module}.")]  # by other tests
    for name in (module, *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("envs.suites.gl.require", lambda what: None)
    gridworld.tiles.cache_clear()
    with pytest.raises(ImportError, match=rf"which is not installed: pip install -e '\.\[{extra}\]'"):
        envs.make(task)
