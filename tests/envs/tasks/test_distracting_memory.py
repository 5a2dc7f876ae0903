import numpy as np
import pytest

import envs
from envs.tasks.gridworld import EMPTY, TILE, WALL

pytest.importorskip("minigrid")


def world(seed=0, width=16, **arguments):
    text = "".join(f",{key}={value}" for key, value in arguments.items())
    env = envs.make(f"distracting_memory:width={width}{text}").unwrapped
    env.reset(seed=seed)
    return env


def play(env, actions):
    """Step through; the rewards, and the flags of the last step."""
    rewards = []
    for action in actions:
        _, reward, *flags, _ = env.step(action)
        rewards.append(reward)
    return rewards, flags


def test_the_layout():
    """Walls as read off the paper's video, at width 16."""
    env = world()
    rows = ["".join("#" if cell == WALL else " " for cell in row) for row in env.grid]
    assert rows == [
        "################",
        "#            # #",
        "#####        # #",
        "#   ########## #",
        "#              #",
        "#   ########## #",
        "#####        # #",
        "#            # #",
        "################",
    ]
    assert (env.x, env.y, env.heading) == (7, 4, 0)
    tiles = {(x, y) for y, x in np.argwhere(env.grid >= TILE)}
    assert {(3, 5), (14, 2), (14, 6)} <= tiles
    assert all(y == 4 and 4 <= x <= 13 for x, y in tiles - {(3, 5), (14, 2), (14, 6)})


def test_cue_choices_and_distractors_are_drawn_as_described():
    cues, north, distractors = [], [], []
    for seed in range(300):
        env = world(seed)
        cue, up, down = env.grid[5, 3], env.grid[2, 14], env.grid[6, 14]
        assert up != down
        assert (up == cue) + (down == cue) == 1
        cues.append(cue)
        north.append(up == cue)
        distractors.append(env.grid[4, 4:14])
    cells = np.concatenate(distractors)
    assert abs(np.mean(cells == EMPTY) - 0.5) < 0.04
    for colour in range(TILE, TILE + 4):
        assert abs(np.mean(cells == colour) - 0.125) < 0.03
        assert abs(np.mean(np.array(cues) == colour) - 0.25) < 0.08
    assert abs(np.mean(north) - 0.5) < 0.1


@pytest.mark.parametrize(("width", "context", "query"), [(100, 199, 51), (200, 399, 101), (400, 799, 201)])
def test_the_papers_trajectory(width, context, query):
    env = world(1, width)
    places = [(env.x, env.y)]
    actions = []
    for action in env.script():
        actions.append(action)
        _, reward, terminated, truncated, _ = env.step(action)
        places.append((env.x, env.y))
        assert (terminated, truncated) == (len(places) == context + query, False)
        assert reward in ((0, 1) if terminated else (0,))
    half = width // 2 - 1
    assert actions[: context - 1] == ([2] * half + [1, 1] + [2] * (width - 3) + [0, 0] + [2] * (half - 1))
    assert env.context_length == context
    assert places[context - 1] == (half, 4)
    assert actions[context - 1 : -2] == [2] * half
    assert actions[-2] in (0, 1)
    assert actions[-1] == 2


def test_the_script_guesses_and_the_solution_knows():
    guessed = [sum(play(env, env.script())[0]) for env in map(world, range(60))]
    assert np.mean(guessed) == pytest.approx(envs.guess("distracting_memory"), abs=0.2)
    for seed in range(20):
        env = world(seed)
        rewards, flags = play(env, env.solution())
        assert (sum(rewards), flags) == (envs.optimum("distracting_memory"), [True, False])


def test_the_agent_may_choose_at_once():
    env = world(2)
    rewards, flags = play(env, [2] * 7 + [0, 2])
    assert (env.x, env.y) == (14, 3)
    assert (rewards, flags) == ([0] * 8 + [float(env.grid[2, 14] == env.grid[5, 3])], [True, False])


def test_walls_stop_and_the_limit_truncates():
    env = world(limit=3)
    _, flags = play(env, [0, 2, 2])
    assert (env.x, env.y) == (7, 4)
    assert flags == [False, True]
    assert world().limit == 64


@pytest.mark.parametrize(
    ("width", "said"), [(15, "must be even .* got 15"), (8, "of at least 10, got 8"), (12.0, "got 12.0")]
)
def test_arguments_are_checked(width, said):
    with pytest.raises(ValueError, match=f"DistractingMemory: argument 'width' .*{said}"):
        envs.make(f"distracting_memory:width={width}")
