import numpy as np
import pytest

import envs

pytest.importorskip("minigrid")


@pytest.mark.parametrize("size", [7, 9, 11, 13, 17])
def test_memory_tasks_are_pictures(size):
    env = envs.make("minigrid:Memory" + f"S{size}")
    assert list(env.observation_space) == ["image"]
    image = env.reset()[0]["image"]
    assert (image.shape, image.dtype) == ((56, 56, 3), np.uint8)
    assert env.unwrapped.width == size
    assert env.unwrapped.max_steps == 5 * size**2
    env.close()


def test_symbols_are_what_minigrid_observes():
    env = envs.make("minigrid:MemoryS11:observation=symbols", seed=3)
    constants = pytest.importorskip("minigrid.core.constants")
    numbers = {
        "object": constants.OBJECT_TO_IDX,
        "color": constants.COLOR_TO_IDX,
        "state": constants.STATE_TO_IDX,
    }
    observation, _ = env.reset()
    seen = set()
    for action in [2, 2, 0, 0, 2, 1, 1, 1] * 5:
        raw = env.unwrapped.gen_obs()["image"]
        for layer, (key, index) in enumerate(numbers.items()):
            assert env.observation_space[key].classes == (len(index),) * 49
            codes = observation[key].reshape(7, 7, len(index))
            np.testing.assert_array_equal(codes.sum(-1), 1)
            np.testing.assert_array_equal(codes.argmax(-1), raw[..., layer])
        seen |= set(raw[..., 0].ravel().tolist())
        observation, _, terminated, truncated, _ = env.step(action)
        assert not (terminated or truncated)
    assert {constants.OBJECT_TO_IDX[name] for name in ("unseen", "empty", "wall")} < seen
    env.close()


def test_the_facts_of_memory_tasks():
    """From the end of the corridor the answer leads to the object that was the cue."""
    env, cues, answers = envs.make("minigrid:MemoryS7:observation=symbols"), set(), set()
    for _ in range(8):
        _, info = env.reset()
        while (answer := info["probe"]["answer"]) < 0:
            _, reward, terminated, _, info = env.step(2)
            assert not (reward or terminated)
        hidden = env.unwrapped
        objects = [hidden.grid.get(int(hidden.agent_pos[0]), y).type for y in (1, 5)]
        assert objects[answer] == ("ball", "key")[info["probe"]["cue"]]
        env.step(answer)
        assert env.step(2)[1] > 0
        cues.add(info["probe"]["cue"])
        answers.add(answer)
    assert cues == answers == {0, 1}
    env.close()


def test_tile_size_and_truncation():
    door = envs.make_vector("minigrid:MemoryS7:tile=4", 1, seed=0)
    rows = door.reset()
    assert rows["obs/image"].shape == (1, 28, 28, 3)
    for step in range(5 * 7**2):
        assert not rows["is_last"][0], step
        rows = door.step(np.zeros(1, np.int64))  # turn on the spot
    assert rows["is_last"][0]
    assert not rows["is_terminal"][0]
    door.close()


def test_what_the_view_cannot_tell_and_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="words change from episode to episode"):
        envs.make("minigrid:GoToDoor-5x5")
    with pytest.raises(ValueError, match=r"Did you mean 'MemoryS7'"):
        envs.check("minigrid:MemryS7")
    with pytest.raises(ValueError, match="takes observation, render_mode, tile"):
        envs.check("minigrid:MemoryS7:size=9")
    with pytest.raises(
        ValueError, match="'observation' must be pixels or symbols, got 'symbol'. Did you mean"
    ):
        envs.make("minigrid:MemoryS7:observation=symbol")
    with pytest.raises(ValueError, match="'tile' is for observation=pixels only"):
        envs.make("minigrid:MemoryS7:observation=symbols,tile=8")
    with pytest.raises(ValueError, match="'tile' must be a whole number"):
        envs.make("minigrid:MemoryS7:tile=0")
