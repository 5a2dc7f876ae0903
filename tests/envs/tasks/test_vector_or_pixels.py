"""A picture says what the vector says: it can be read back, and none stands for two vectors."""

import numpy as np
import pytest

import envs
from envs.tasks.memory_chain import CONTEXT, FINEST, QUERY, TIME, MemoryChain
from envs.tasks.tmaze import AGENT, CUE, FLOOR, FORWARD, LEFT, TMaze


def read_tmaze(picture):
    def at(row, column, colour):
        return bool((picture[row, column] == colour).all())

    assert at(20, 20, AGENT)
    left, right, west, east, north = (
        at(*where) for where in [(7, 20, CUE), (33, 20, CUE), (20, 1, FLOOR), (20, 38, FLOOR), (1, 20, FLOOR)]
    )
    return np.array([right - left, west and east and not north, west and north and not east], np.float32)


def read_memory_chain(picture, n, bits):
    edges = np.linspace(0, 40, bits + 1).astype(int)[:-1]
    shown = picture[CONTEXT.start, edges].astype(int)
    context = np.sign(shown[:, 2] - shown[:, 0])  # blue, orange or neither
    asked = np.flatnonzero(picture[QUERY.start, edges, 0] == 240)
    steps = n * picture[TIME, :, 1].sum(dtype=np.int64) / (255 * 8 * 40)
    time = 1 - round(n - steps) / n
    return np.array([time, asked[0] if len(asked) else 0, *context], np.float32)


def pairs(make, episodes, actions):
    """Vector and picture of the same moments, over some episodes of the same seeds and actions."""
    by_vector, by_picture = make("vectors"), make("pixels")
    random = np.random.default_rng(0)
    for seed in range(episodes):
        vector, picture = by_vector.reset(seed=seed)[0], by_picture.reset(seed=seed)[0]
        over = False
        yield vector, picture
        while not over:
            action = int(random.choice(actions))
            (vector, *other), (picture, *same) = by_vector.step(action), by_picture.step(action)
            assert same == other
            over = same[1] or same[2]
            yield vector, picture


def check_one_to_one(moments):
    vectors, pictures = zip(*((v.tobytes(), p.tobytes()) for v, p in moments), strict=True)
    assert len(set(zip(vectors, pictures, strict=True))) == len(set(vectors)) == len(set(pictures))
    return len(set(vectors))


@pytest.mark.parametrize("corridor", [1, 2, 7])
def test_tmaze(corridor):
    moments = list(pairs(lambda how: TMaze(corridor, observation=how), 30, range(3)))
    for vector, picture in moments:
        assert (picture.shape, picture.dtype) == ((40, 40, 3), np.uint8)
        np.testing.assert_array_equal(read_tmaze(picture), vector)
    assert check_one_to_one(moments) == 5


@pytest.mark.parametrize(("n", "bits"), [(1, 1), (2, 1), (32, 1), (5, 3), (3, 40), (1000, 2)])
def test_memory_chain(n, bits):
    moments = list(pairs(lambda how: MemoryChain(n, bits, how), 40 if n < 1000 else 3, range(2)))
    for vector, picture in moments:
        np.testing.assert_array_equal(read_memory_chain(picture, n, bits), vector)
    check_one_to_one(moments)


def test_the_longest_memory_chain_shows_every_step():
    env = MemoryChain(FINEST, observation="pixels")
    env.reset(seed=0)
    for t in [*range(1, 600), *range(FINEST // 2, FINEST // 2 + 600), *range(FINEST - 600, FINEST + 1)]:
        env._t = t + 1
        assert read_memory_chain(env._picture(), FINEST, 1)[0] == np.float32(1 - t / FINEST)


def test_an_observed_picture_is_not_drawn_into_again():
    for make in (TMaze, MemoryChain):
        env = make(observation="pixels")
        first = env.reset(seed=1)[0]
        kept = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(env.reset(seed=1)[0], kept)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("tmaze:observation=pixel", "'observation' must be vectors or pixels, .* Did you mean 'pixels'"),
        ("memory_chain:observation=true", "MemoryChain: argument 'observation' must be vectors or pixels"),
        (
            "memory_chain:bits=41,observation=pixels",
            "pixels: argument 'bits' must be .* from 1 to 40, got 41",
        ),
        ("memory_chain:n=81601,observation=pixels", "'n' must be a whole number from 1 to 81600, got 81601"),
    ],
)
def test_what_cannot_be_shown_is_refused(task, message):
    with pytest.raises(ValueError, match=message):
        envs.make(task)


@pytest.mark.parametrize("observation", ["vectors", "pixels"])
def test_render(observation):
    env = MemoryChain(5, 3, observation, render_mode="rgb_array")
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), MemoryChain(5, 3, "pixels").reset(seed=0)[0])
    maze = TMaze(2, observation=observation, render_mode="rgb_array")
    maze.reset(seed=0)
    shown = [maze.render()]
    for action in (FORWARD, FORWARD, LEFT):
        maze.step(action)
        shown.append(maze.render())
    assert {picture.shape for picture in shown} == {(64, 64, 3)}
    assert len({picture.tobytes() for picture in shown}) == 4  # the place too, which is not observed
