"""What tasks tell as info["probe"]: the right action is the one that their solution takes."""

import numpy as np
import pytest

import envs


@pytest.mark.parametrize(
    "task",
    [
        "memory_chain:n=5,bits=3",
        "tmaze:corridor=4",
        "repeat_previous:k=3,decks=1",
        "tmaze:observation=pixels",
    ],
)
def test_the_answer_is_what_the_solution_does(task: str) -> None:
    env = envs.make(task, 0)
    answered = 0
    for _ in range(5):
        _, info = env.reset()
        for action in env.get_wrapper_attr("solution")():
            answer = info["probe"]["answer"]
            assert answer in (-1, action)
            answered += answer >= 0
            info = env.step(np.int64(action))[4]
    assert answered >= 5
    env.close()


def test_the_cue_of_distracting_memory() -> None:
    """It holds for a whole episode; the side says where the solution goes."""
    env = envs.make("distracting_memory:width=20", 0)
    for _ in range(5):
        _, info = env.reset()
        told = info["probe"]
        for action in env.get_wrapper_attr("solution")():
            _, reward, _, _, info = env.step(np.int64(action))
            assert info["probe"] == told
        assert reward == 1 and told["cue"] in range(4)
        assert (env.get_wrapper_attr("y") < 4) == told["north"]
    env.close()
