import contextlib
import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers

from envs.actions import is_plain
from envs.interface import Plain


class Fixed(gymnasium.Env):
    """Returns what it is told to, and remembers seeds and actions."""

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, observation_space=None, value=0.0, action_space=None, reward=0.0):
        self.observation_space = spaces.Box(-1, 1, ()) if observation_space is None else observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.value, self.reward = value, reward
        self.seeds, self.actions = [], []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return self.value, {"reset": True}

    def step(self, action):
        self.actions.append(action)
        return self.value, self.reward, np.bool_(False), np.bool_(True), {"step": True}


def flat(space, value):
    env = Plain(Fixed(space, value))
    observation = env.reset()[0]
    assert env.observation_space.contains(observation)
    return observation


def test_a_nested_observation_becomes_named_leaves():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (2, 4, 3), np.uint8),
            "body": spaces.Dict(
                {"pose": spaces.Box(-np.inf, np.inf, (2, 2), np.float64), "leg": spaces.Discrete(3)}
            ),
            "pair": spaces.Tuple(
                [spaces.MultiBinary(2), spaces.Dict({"x": spaces.Box(-5, 5, (), np.int32)})]
            ),
        }
    )
    value = {
        "camera": picture,
        "body": {"pose": np.array([[1.0, 2], [3, 4]]), "leg": 2},
        "pair": (np.array([1, 0], np.int8), {"x": 5}),
    }
    observation = flat(space, value)
    expected = {
        "camera": picture,
        "body.pose": [1, 2, 3, 4],
        "body.leg": [0, 0, 1],
        "pair.0": [1, 0],
        "pair.1.x": [5],
    }
    assert set(observation) == set(expected)
    for name, leaf in expected.items():
        np.testing.assert_array_equal(observation[name], leaf)
        assert observation[name].dtype == (np.uint8 if name == "camera" else np.float32)


@pytest.mark.parametrize(
    ("space", "value", "name", "leaf"),
    [
        (spaces.Box(-1, 1, (2,)), np.float32([0.5, -0.5]), "vector", [0.5, -0.5]),
        (
            spaces.Box(0, 255, (1, 2, 3), np.uint8),
            np.full((1, 2, 3), 7, np.uint8),
            "image",
            np.full((1, 2, 3), 7),
        ),
        (spaces.Box(0, 255, (3,), np.uint8), np.uint8([1, 2, 255]), "vector", [1, 2, 255]),
        (spaces.Box(0, 1, (1, 2, 3), np.float32), np.full((1, 2, 3), 0.5, np.float32), "vector", [0.5] * 6),
        (spaces.Discrete(4), 3, "vector", [0, 0, 0, 1]),
        (spaces.Discrete(4, start=-2), np.int64(-2), "vector", [1, 0, 0, 0]),
        (spaces.Discrete(4, start=5), np.array(6), "vector", [0, 1, 0, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), "vector", [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), np.array([1, 1]), "vector", [1, 0, 0, 0, 1]),
        (spaces.MultiDiscrete([[2], [3]]), np.array([[1], [2]]), "vector", [0, 1, 0, 0, 1]),
        (spaces.MultiBinary([2, 2]), np.array([[1, 0], [0, 1]]), "vector", [1, 0, 0, 1]),
    ],
)
def test_a_bare_observation_is_an_image_or_a_vector(space, value, name, leaf):
    observation = flat(space, value)
    assert list(observation) == [name]
    np.testing.assert_array_equal(observation[name], leaf)


@pytest.mark.parametrize(
    ("space", "value", "image"),
    [
        (spaces.Box(0, 255, (8, 9), np.uint8), np.full((8, 9), 7), np.full((8, 9, 1), 7)),
        (spaces.Box(0, 1, (2, 2, 1), np.uint8), [[[0], [1]], [[1], [0]]], [[[0], [255]], [[255], [0]]]),
        (spaces.Box(1, 6, (1, 2, 1), np.uint8), [[[1], [3]]], [[[0], [102]]]),
    ],
)
def test_forms_of_images(space, value, image):
    """Rank 2 is one channel; a grid of numbers up to 1 or 6 is not nearly black."""
    observation = flat(space, np.array(value, np.uint8))["image"]
    assert observation.dtype == np.uint8
    np.testing.assert_array_equal(observation, image)


def test_channels_that_come_first_go_last():
    space = spaces.Box(0, 255, (3, 5, 6), np.uint8)
    value = np.arange(90, dtype=np.uint8).reshape(3, 5, 6)
    env = Plain(Fixed(space, value))
    assert env.observation_space["image"].shape == (5, 6, 3)
    np.testing.assert_array_equal(env.reset()[0]["image"], np.moveaxis(value, 0, -1))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(84, 84), (64, 96), (32, 32)])
def test_stacks_of_pictures_are_read_as_they_are_meant(channels, frames, size):
    """Frames and channels in one axis, first or last, or in an axis each; a line says how they were read."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, frames, channels), np.uint8)
    wanted = pixels.reshape(*size, -1)
    shown = {"last": wanted, "first": np.moveaxis(wanted, -1, 0)}
    if frames > 1:
        shown |= {"stacked": np.moveaxis(pixels, 2, 0), "frames last": np.moveaxis(pixels, 2, 3)}
        shown["stacked, first"] = np.moveaxis(pixels, (2, 3), (0, 1))
    for how, value in shown.items():
        says = contextlib.nullcontext()
        if value.ndim == 4 or frames * channels > 4:
            says = pytest.warns(
                UserWarning, match=f"is read as {frames * channels} channels of {size[0]} rows"
            )
        with says:
            found = flat(spaces.Box(0, 255, value.shape, np.uint8), np.ascontiguousarray(value))["image"]
        if how == "frames last":
            np.testing.assert_array_equal(np.sort(found), np.sort(wanted))
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=how)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((3, 64, 3), (3, 64, 3)), ((1, 100, 1), (1, 100, 1)), ((5, 5, 5), (5, 5, 5)), ((9, 9, 6), (9, 9, 6)),
     ((8, 9, 20), (8, 9, 20)), ((16, 16, 16), (16, 16, 16))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_could_be_rows_is_rows(shape, image):
    assert flat(spaces.Box(0, 255, shape, np.uint8), np.zeros(shape, np.uint8))["image"].shape == image


@pytest.mark.parametrize(
    ("dtype", "number"), [(np.int64, 1_700_000_000), (np.float64, 1_700_000_000.5), (np.int32, -(2**24) - 1)]
)
def test_numbers_that_float32_does_not_tell_apart_are_named_once(dtype, number):
    space = spaces.Dict(time=spaces.Box(-(2**31), 2**31 - 1, (2,), dtype))
    value = {"time": np.array([0, number], dtype)}
    env = Plain(Fixed(space, value))
    with pytest.warns(UserWarning, match=f"leaf 'time' has numbers such as {number}.*float32") as said:
        env.reset()
        env.reset()
    assert len(said) == 1


@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_takes_need_no_word():
    for space in (
        spaces.Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (2,), np.float64),
        spaces.Box(-(2**62), 2**62, (2,), np.int64),
        spaces.Box(-1e30, 1e30, (2,), np.float32),
    ):
        big = 1e25 if space.dtype == np.float32 else 2**24 - 1
        flat(space, np.array([1, big], space.dtype))


@pytest.mark.parametrize("reply", [np.zeros(2), (0.5, -0.5), [0.5, {}], None])
def test_a_reset_of_the_old_gym_is_named(reply):
    env = Plain(Fixed(spaces.Box(-1, 1, (2,))))
    env.env.reset = lambda **_: reply
    with pytest.raises(ValueError, match=r"reset\(\) must return \(observation, info\)"):
        env.reset()


def test_small_tables_of_bytes_are_vectors():
    assert list(flat(spaces.Box(0, 2, (3, 3), np.uint8), np.zeros((3, 3), np.uint8))) == ["vector"]


def test_images_of_floats_get_a_warning():
    space = spaces.Dict(camera=spaces.Box(0, 1, (32, 32, 3)))
    with pytest.warns(UserWarning, match="leaf 'camera' is .* 3,072 numbers.* give it as uint8"):
        Plain(Fixed(space, space.sample()))
    for space in (spaces.Box(0, 255, (7, 32, 32, 3), np.uint8), spaces.Box(0, 1, (84, 84))):
        with pytest.warns(UserWarning, match="the observation is .* give it as uint8"):
            Plain(Fixed(space, space.sample()))


@pytest.mark.parametrize(
    ("space", "classes"),
    [
        (spaces.Discrete(4, start=5), (4,)),
        (spaces.MultiDiscrete([[2], [3]]), (2, 3)),
        (spaces.MultiBinary(2), None),
        (spaces.Box(0, 1, (2,)), None),
    ],
)
def test_one_hot_codes_say_so(space, classes):
    space.seed(0)
    env = Plain(Fixed(space, space.sample()))
    leaf = env.observation_space["vector"]
    assert getattr(leaf, "classes", None) == classes
    assert leaf.shape == env.reset()[0]["vector"].shape


def test_samples_of_supported_spaces_fit():
    space = spaces.Dict(
        {
            "a": spaces.MultiDiscrete([3, 4, 5], start=[0, 2, -4]),
            "b": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiBinary(4)]),
            "c": spaces.Box(-3, 3, (2, 3)),
        }
    )
    space.seed(0)
    for _ in range(20):
        value = space.sample()
        observation = flat(space, value)
        for name, leaf in (("a", space["a"]), ("c", space["c"])):
            np.testing.assert_allclose(observation[name], spaces.flatten(leaf, value[name]))


def test_leaves_are_copies():
    value = {"image": np.zeros((2, 2, 3), np.uint8), "vector": np.zeros(3, np.float32)}
    env = Plain(
        Fixed(
            spaces.Dict(image=spaces.Box(0, 255, (2, 2, 3), np.uint8), vector=spaces.Box(-1, 1, (3,))), value
        )
    )
    kept = env.reset()[0]
    for leaf in value.values():
        leaf[:] = 1
    assert not kept["image"].any()
    assert not kept["vector"].any()


@pytest.mark.parametrize(
    "leaf", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2)), spaces.Graph(spaces.Box(0, 1, (1,)), None)]
)
def test_unsupported_leaves_are_named(leaf):
    with pytest.raises(ValueError, match=rf"{type(leaf).__name__} cannot be learned from: leaf 'a\.b'"):
        Plain(Fixed(spaces.Dict(a=spaces.Dict(b=leaf))))
    with pytest.raises(ValueError, match="cannot be learned from: the observation is"):
        Plain(Fixed(leaf))


def test_names_that_meet_and_empty_spaces_are_refused():
    vector = spaces.Box(0, 1, (1,))
    with pytest.raises(ValueError, match=r"both named 'a\.b'"):
        Plain(Fixed(spaces.Dict({"a.b": vector, "a": spaces.Dict(b=vector)})))
    with pytest.raises(ValueError, match="nothing to see"):
        Plain(Fixed(spaces.Dict({})))


@pytest.mark.faults("wrong key, shape, dtype, range or number shown")
@pytest.mark.parametrize(
    ("space", "value", "says"),
    [
        (spaces.Dict(a=spaces.Box(0, 1, (2,))), {}, "'a' is missing"),
        (
            spaces.Dict(a=spaces.Box(0, 1, (2,))),
            {"a": np.zeros(3)},
            r"expected shape \(2,\), got shape \(3,\)",
        ),
        (spaces.Dict(a=spaces.Box(0, 1, (2,))), {"a": None}, "leaf 'a' does not fit"),
        (spaces.Dict(a=spaces.Discrete(3)), {"a": 3}, r"from \[0\] to \[2\], got 3"),
        (spaces.Dict(a=spaces.Discrete(3)), {"a": -1}, r"from \[0\] to \[2\], got -1"),
        (spaces.Dict(a=spaces.Discrete(3)), {"a": 1.5}, "whole numbers"),
        (spaces.Dict(a=spaces.MultiDiscrete([2, 2])), {"a": [1]}, r"expected 2 whole number"),
        (
            spaces.Dict(a=spaces.Box(0, 255, (2, 2, 3), np.uint8)),
            {"a": np.zeros((2, 2, 3))},
            "expected uint8 of shape .* got float64",
        ),
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), (1,), "leaf '1' does not fit"),
    ],
)
def test_values_that_do_not_fit_name_the_leaf(space, value, says):
    with pytest.raises(ValueError, match=says):
        Plain(Fixed(space, value)).reset()


@pytest.mark.parametrize("reward", [2, 2.0, np.float32(2), np.array([2.0]), np.array(2), True + 1])
def test_rewards_and_flags_become_plain(reward):
    env = Plain(Fixed(reward=reward))
    _, got, terminated, truncated, info = env.step(0)
    assert (got, type(got)) == (2.0, float)
    assert (terminated, truncated) == (False, True)
    assert type(terminated) is bool
    assert info == {"step": True}


@pytest.mark.faults("wrong key, shape, dtype, range or number shown")
def test_a_vector_reward_is_refused():
    with pytest.raises(ValueError, match="reward must be one number"):
        Plain(Fixed(reward=np.zeros(2))).step(0)


def act(space, action):
    env = Plain(Fixed(action_space=space))
    assert is_plain(env.action_space)
    assert env.action_space.contains(action)
    env.step(action)
    taken = env.unwrapped.actions[0]
    assert space.contains(taken), taken
    return taken


def test_actions_reach_the_environment_in_its_own_form():
    assert act(spaces.Discrete(3, start=5), np.int64(2)) == 7
    np.testing.assert_array_equal(act(spaces.MultiDiscrete([2, 3], start=[4, -1]), np.array([1, 2])), [5, 1])
    for dtype in (np.int32, np.uint8):
        assert act(spaces.Discrete(3, dtype=dtype), np.int64(2)).dtype == dtype
        assert act(spaces.Discrete(3, start=1, dtype=dtype), np.int64(2)).dtype == dtype
        assert act(spaces.MultiDiscrete([2, 3], dtype=dtype), np.array([1, 2])).dtype == dtype
        assert act(spaces.MultiDiscrete([2, 3], dtype=dtype, start=[1, 1]), np.array([1, 2])).dtype == dtype
    np.testing.assert_array_equal(act(spaces.MultiBinary([2, 2]), np.array([1, 0, 0, 1])), [[1, 0], [0, 1]])
    box = spaces.Box(np.float32([-2, 0]), np.float32([2, 10]))
    np.testing.assert_allclose(act(box, np.float32([-1, 0.5])), [-2, 7.5])
    assert act(spaces.Box(0, 4, (1, 2, 1), np.float64), np.zeros((1, 2, 1), np.float32)).tolist() == [
        [[2], [2]]
    ]


def test_numbers_of_any_rank_are_chosen():
    space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]])
    np.testing.assert_array_equal(act(space, np.array([1, 2, 3, 4])), [[1, 3], [5, 7]])


def test_clipped_actions_fill_their_bounds():
    """gymnasium's ClipAction takes any number; what it clips to are the bounds, whatever is around it."""
    inner = Fixed(action_space=spaces.Box(np.float32([-2, 0]), np.float32([2, 10])))
    env = Plain(wrappers.TimeLimit(wrappers.ClipAction(inner), 5))
    assert is_plain(env.action_space)
    env.reset()
    env.step(np.float32([-1, 1]))
    np.testing.assert_array_equal(inner.actions[0], [-2, 10])
    halved = wrappers.TransformAction(
        wrappers.ClipAction(inner), lambda a: a / 2, spaces.Box(-np.inf, np.inf, (2,))
    )
    with pytest.raises(ValueError, match="no finite bounds"):
        Plain(halved)


@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_the_advice_for_unbounded_actions_works(low):
    env = Fixed(action_space=spaces.Box(low, np.inf, (2,)))
    with pytest.raises(ValueError, match="wrapper") as refused:
        Plain(env)
    advice = re.search(r"gymnasium\.wrappers\.TransformAction\(.*\)\)", str(refused.value))[0]
    env = Plain(eval(advice))
    env.reset()
    env.step(np.float32([-1, 1]))
    np.testing.assert_array_equal(env.unwrapped.actions[0], [-1, 1])


def test_bounds_are_met_exactly():
    rng = np.random.default_rng(0)
    for _ in range(100):
        low = rng.normal(size=3).astype(np.float32)
        space = spaces.Box(low, low + rng.random(3).astype(np.float32))
        for end in (-1, 1):
            act(space, np.full(3, end, np.float32))


@pytest.mark.parametrize(
    ("space", "plain"),
    [
        (spaces.Discrete(3), True),
        (spaces.Discrete(3, start=1), False),
        (spaces.Discrete(3, dtype=np.int32), False),
        (spaces.MultiDiscrete([2, 2]), True),
        (spaces.MultiDiscrete([2, 2], start=[0, 1]), False),
        (spaces.MultiDiscrete([2, 2], dtype=np.int32), False),
        (spaces.Box(-1, 1, (2,)), True),
        (spaces.Box(-1, 1, (2,), np.float64), False),
        (spaces.Box(-1, 2, (2,)), False),
        (spaces.MultiBinary(2), False),
    ],
)
def test_is_plain(space, plain):
    assert is_plain(space) is plain


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(-np.inf, np.inf, (1,)), "no finite bounds.*finite low and high"),
        (spaces.Box(-3e38, 3e38, (1,)), "no finite bounds"),
        (spaces.Box(0, 5, (1,), np.int64), "whole numbers is not supported"),
        (spaces.Dict(a=spaces.Discrete(2)), "Dict are not supported"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple are not supported"),
        (spaces.Discrete(10**9), "1,000,000,000 values"),
        (spaces.MultiDiscrete([10**6, 2]), "1,000,002 values"),
        (spaces.Box(-1, 1, (0,)), "nothing to choose"),
    ],
)
def test_action_spaces_that_cannot_be_acted_in(space, says):
    with pytest.raises(ValueError, match=says):
        Plain(Fixed(action_space=space))
