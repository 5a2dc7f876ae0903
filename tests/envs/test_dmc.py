import sys

import numpy as np
import pytest

import envs


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.delitem(sys.modules, "dm_control.suite", raising=False)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[dmc\]'"):
        envs.check("dmc:walker_walk")


class TestSuite:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("dm_control.suite", exc_type=ImportError)

    def test_proprioception(self):
        env = envs.make("dmc:walker_walk", seed=1)
        shapes = {name: leaf.shape for name, leaf in env.observation_space.items()}
        assert shapes == {"height": (1,), "orientations": (14,), "velocity": (9,)}
        assert env.action_space.shape == (6,)
        first = env.reset()[0]
        again = envs.make("dmc:walker_walk", seed=1).reset()[0]
        other = envs.make("dmc:walker_walk", seed=2).reset()[0]
        np.testing.assert_array_equal(first["orientations"], again["orientations"])
        assert (first["orientations"] != other["orientations"]).any()
        assert first["height"].dtype == np.float32

    def test_repeat_sums_rewards_and_the_limit_truncates(self):
        door = envs.make_vector("dmc:cartpole_balance:repeat=100", 1, seed=0)
        rows, total = door.reset(), 0.0
        for _ in range(10):
            assert not rows["is_last"][0]
            rows = door.step(np.zeros((1, 1), np.float32))
            total += rows["reward"][0]
        assert rows["is_last"][0]
        assert not rows["is_terminal"][0]
        assert 100 < total <= 1000
        door.close()

    def test_names_and_arguments(self):
        with pytest.raises(ValueError, match=r"Did you mean 'walker_walk'"):
            envs.check("dmc:walker_wlak")
        with pytest.raises(ValueError, match="'repeat' must be a whole number"):
            envs.make("dmc:cartpole_balance:repeat=0")
