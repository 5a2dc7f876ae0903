"""The choice of a GL backend, with trials that are scripted: what works here does not matter."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from envs.suites import gl


@pytest.fixture
def trials(monkeypatch):
    """Backends that work, to be filled in by a test; and the ones that were tried."""
    works, tried = set(), []

    def run(command, env, capture_output):
        tried.append(env["MUJOCO_GL"])
        return SimpleNamespace(returncode=0 if env["MUJOCO_GL"] in works else 1)

    monkeypatch.setattr(gl.subprocess, "run", run)
    monkeypatch.setenv("MUJOCO_GL", "")  # put back after the test, whatever was chosen in it
    monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
    gl.backend.cache_clear()
    yield works, tried
    gl.backend.cache_clear()


@pytest.mark.parametrize(
    ("working", "chosen", "tried"),
    [
        ({"egl", "osmesa", "glfw"}, "egl", ["egl"]),
        ({"osmesa", "glfw"}, "osmesa", ["egl", "osmesa"]),
        ({"glfw"}, "glfw", ["egl", "osmesa", "glfw"]),
    ],
)
def test_the_first_that_works_is_said_and_kept(trials, capsys, working, chosen, tried):
    trials[0].update(working)
    assert gl.backend() == gl.backend() == chosen
    assert trials[1] == tried
    assert gl.os.environ["MUJOCO_GL"] == chosen
    assert capsys.readouterr().err == f"GL backend: {chosen}\n"
    gl.require("A picture")


def test_none_gives_the_line_that_mends_it(trials):
    assert gl.backend() is None
    with pytest.raises(
        ImportError,
        match=r"A picture has to be drawn.*tried egl, osmesa, glfw\): sudo apt-get install libegl1",
    ):
        gl.require("A picture")


def test_what_the_user_names_is_taken(trials, monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert gl.backend() == "osmesa"
    assert trials[1] == []
    assert capsys.readouterr().err == ""


def test_a_package_imported_too_early_is_found_out(trials, monkeypatch):
    trials[0].add("egl")
    monkeypatch.setitem(sys.modules, "dm_control._render", SimpleNamespace(BACKEND="glfw"))
    with pytest.raises(ImportError, match="settled for glfw: start Python with MUJOCO_GL=egl set"):
        gl.require("A picture")


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dm_control", "triton")),
    reason="needs dm-control and Triton",
)
def test_an_optimiser_can_be_made_after_drawing():
    """Triton, loaded after Mesa, crashed the process: either has an LLVM of its own."""
    program = """
import torch
import envs
env = envs.make("dmc:cartpole_balance:observation=pixels,fast=true")
assert env.reset()[0]["image"].any()
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
