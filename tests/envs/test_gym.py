import sys

import gymnasium
import pytest

import envs
from envs import gym


@pytest.mark.parametrize(
    "task", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1:map_name=8x8", "TMaze-v0:corridor=3"]
)
def test_any_gymnasium_id_works(task):
    env = envs.make(task)
    env.reset()
    env.close()


def test_arguments_reach_the_environment_and_gymnasium(outside):
    env = envs.make("MemoryChain-v0:n=5,max_episode_steps=3")
    assert env.unwrapped.n == 5
    env.reset()
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]
    assert envs.make(f"{outside}:Scripted-v0:end=both").unwrapped.end == "both"
    assert envs.make("CartPole-v1:render_mode=rgb_array").render_mode == "rgb_array"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("memory_chian", "Did you mean 'memory_chain'"),
        ("memorychain-v0", "Did you mean 'MemoryChain-v0'"),
        ("CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("CartPole", "Did you mean 'CartPole-v1'"),
        ("popgm:RepeatPreviousEasy", "Did you mean 'popgym'"),
        ("no_such_module:Id-v0", "no module 'no_such_module'.*PYTHONPATH"),
        ("ALE/Pong-v5", "pip install ale-py, then 'ale_py:ALE/Pong-v5'"),
        ("ale_py:ALE/Pong-v5", "needs: pip install ale-py"),
        ("Robot/Walk-v1", "Ids of 'Robot' are registered by a package of their own.*'module:Robot/Walk-v1'"),
        ("envs.corridor:Id-v0", "the name 'envs' is taken by a package of this project"),
        ("gymnasium:CartPole-v1:wait", "'wait' is not of the form key=value"),
        ("./nowhere.py:Id-v0", "there is no file .*nowhere.py"),
        (
            "memory_chain:m=3",
            "Unknown argument 'm'.*takes bits, disable_env_checker, max_episode_steps, n, observation",
        ),
        ("CartPole-v1:foo=1", "takes .*max_episode_steps, render_mode, sutton_barto_reward"),
    ],
)
def test_mistakes_get_the_nearest_match_before_anything_is_built(task, says, monkeypatch):
    monkeypatch.setattr(gymnasium, "make", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(ValueError, match=says):
        envs.check(task)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_module_may_be_named_by_its_file(outside, mode, tmp_path, monkeypatch):
    """From wherever the program runs; its name may not be one that another module has."""
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    for name in (f"{tmp_path}/{outside}.py", f"{tmp_path.name}/{outside}.py", f"./{tmp_path.name}/{outside}"):
        with envs.make_vector(f"{name}:Scripted-v0:end=both", 1, seed=0, mode=mode) as door:
            assert door.reset()["is_first"].all()
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match="name 'json' is taken by .*Rename the file"):
        envs.check(f"{tmp_path}/json.py:Id-v0")


def test_a_module_that_ends_the_program_is_a_mistake(module):
    module("ends_at_once", "raise SystemExit(0)")
    with pytest.raises(ValueError, match="importing 'ends_at_once' tried to end the program"):
        envs.check("ends_at_once:Id-v0")


def test_an_id_that_the_module_does_not_register(outside):
    with pytest.raises(ValueError, match=f"after importing '{outside}'.*Did you mean 'Scripted-v0'"):
        envs.check(f"{outside}:Scriptd-v0")


def test_what_a_module_lacks_itself_is_not_called_unknown(module):
    module("half_a_module", "import surely_not_installed")
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        envs.check("half_a_module:Id-v0")


@pytest.mark.parametrize(
    ("family", "extra"), [("box2d:X", "box2d"), ("mujoco.ant_v5:X", "mujoco"), ("tabular.blackjack:X", "jax")]
)
@pytest.mark.parametrize("error", [ModuleNotFoundError, gymnasium.error.DependencyNotInstalled])
def test_the_extra_of_gymnasium_that_is_missing_is_named(family, extra, error, monkeypatch):
    def fails(creator):
        raise error("No module named 'jump'")

    spec = gymnasium.envs.registration.EnvSpec("Jump-v0", f"gymnasium.envs.{family}")
    monkeypatch.setitem(gymnasium.registry, "Jump-v0", spec)
    monkeypatch.setattr(gym, "load_env_creator", fails)
    says = rf"^Task 'Jump-v0' needs .*: pip install 'gymnasium\[{extra}\]' \(No module named 'jump'\)"
    with pytest.raises(ImportError, match=says):
        envs.make("Jump-v0", 0)


def test_what_another_environment_lacks_is_its_own_message(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Jump-v0", "no_such_package.jump:Jump")
    monkeypatch.setitem(gymnasium.registry, "Jump-v0", spec)
    with pytest.raises(ModuleNotFoundError, match="^No module named 'no_such_package'"):
        envs.make("Jump-v0", 0)


def test_vector_only_registrations_are_refused():
    gymnasium.register("VectorOnly-v0", vector_entry_point="nowhere:Nothing")
    try:
        with pytest.raises(ValueError, match="registered as a vector environment only"):
            gym.constructor("VectorOnly-v0", "VectorOnly-v0", {})
    finally:
        del gymnasium.registry["VectorOnly-v0"]


def test_task_names_are_known():
    names = envs.task_names()
    assert {"memory_chain", "discounting_chain", "tmaze", "cartpole_masked", "popgym:Name"} <= set(names)
    for name in envs.TASKS:
        envs.check(name)


def test_optimum_of_a_foreign_task_is_known_where_it_is_the_time_limit():
    assert envs.optimum("CartPole-v1") == 500
    assert envs.optimum("CartPole-v1:max_episode_steps=70") == 70
    assert envs.optimum("Pendulum-v1") is None


@pytest.mark.parametrize(
    ("task", "mode"),
    [
        ("CartPole-v1", "rgb_array"),
        ("cartpole_masked", "rgb_array"),
        ("memory_chain", "rgb_array"),
        ("CartPole-v1:render_mode=human", "human"),  # as asked for
        ("{outside}:Scripted-v0", None),  # it has no such argument
    ],
)
def test_what_can_draw_is_built_to(outside, task, mode, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = envs.make(task.format(outside=outside), render=True)
    assert env.render_mode == mode
    env.close()


@pytest.mark.parametrize(
    ("task", "package"),
    [
        ("minigrid:MemoryS7", "minigrid"),
        ("dmc:cartpole_balance", "dm_control"),
        ("memory_maze:9x9", "labmaze"),
    ],
)
def test_families_that_can_draw_are_built_to(task, package):
    pytest.importorskip(package)
    assert envs._constructor(task, render=True).keywords["render_mode"] == "rgb_array"
    assert "render_mode" not in envs._constructor(task).keywords
