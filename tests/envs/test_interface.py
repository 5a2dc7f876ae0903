"""Spaces on disk, batches of observations, actions both ways."""

import json
import pickle
import warnings

import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs.actions import Actions
from envs.interface import Interface
from envs.spaces import Observations

NESTED = spaces.Dict(
    [
        ("stack", spaces.Box(0, 255, (4, 12, 12), np.uint8)),
        ("grid", spaces.Box(1, 6, (8, 9), np.uint8)),
        (
            "body",
            spaces.Tuple([spaces.Discrete(3, start=-1), spaces.MultiDiscrete([[2], [3]], start=[[0], [4]])]),
        ),
        ("bits", spaces.MultiBinary((2, 2))),
        ("pose", spaces.Box(np.array([-np.inf, 0.1]), np.array([np.inf, 2**60 + 0.0]), dtype=np.float64)),
        ("ids", spaces.Box(-(2**62) - 1, 2**62 + 1, (2, 2), np.int64)),
    ]
)  # fmt: skip
ACTIONS = [
    spaces.Discrete(3),
    spaces.Discrete(3, start=5, dtype=np.int32),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
    spaces.MultiBinary([2, 2]),
    spaces.Box(np.array([[0.0], [-3.0]]), np.array([[10.0], [3.0]]), dtype=np.float64),
]


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_spaces_come_back_from_json_as_they_were(action):
    interface = Interface(NESTED, action)
    text = json.dumps(interface.to_json(), allow_nan=False)
    for again in (Interface.of_json(json.loads(text)), pickle.loads(pickle.dumps(interface))):
        assert again.observations.given == NESTED and again.actions.given == action
        assert list(again.observations.leaves) == list(interface.observations.leaves)
        assert [str(space) for space in again.spaces] == [str(space) for space in interface.spaces]
        assert interface.difference(again) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Graph"},
        {"shape": [2**30, 2**30]},
        {"shape": "(3,)"},
        {"dtype": "object"},
        {"low": ["high"]},
        {"high": None},
        {"low": [1, 2]},
        {"shape": [-1]},
    ],
)
def test_json_that_holds_no_spaces_is_refused(change):
    saved = Interface(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)).to_json()
    with pytest.raises(ValueError):
        Interface.of_json(saved | {"observation": saved["observation"] | change})
    with pytest.raises(ValueError, match="no spaces of an environment"):
        Interface.of_json({"observation": saved["observation"]})


def test_an_uncommon_shape_is_said_once():
    with pytest.warns(UserWarning, match="is read as"):
        interface = Interface(spaces.Box(0, 255, (2, 12, 12, 3), np.uint8), spaces.Discrete(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Interface.of_json(interface.to_json())


def test_a_difference_names_the_leaf():
    def interface(size, classes, actions):
        leaves = {"eye": spaces.Box(-1, 1, (size,)), "card": spaces.Discrete(classes)}
        return Interface(spaces.Dict(leaves), spaces.Discrete(actions))

    here = interface(3, 4, 2)
    other = interface(3, 5, 2)
    assert here.difference(other) == "observation leaf 'card' is Discrete(4) there, Discrete(5) here"
    assert here.difference(interface(3, 4, 3)) == "the action space is Discrete(2) there, Discrete(3) here"
    bare = Interface(spaces.Discrete(4), spaces.Discrete(2))
    assert "'card' is Discrete(4) there, missing here" in here.difference(bare)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_is_its_observations_side_by_side():
    observations = Observations(NESTED)
    NESTED.seed(1)
    samples = [NESTED.sample() for _ in range(3)]
    batch = {key: np.stack([sample[key] for sample in samples]) for key in NESTED if key != "body"}
    batch["body"] = tuple(np.stack([sample["body"][part] for sample in samples]) for part in range(2))
    assert (observations.count(samples[0]), observations.count(batch)) == (None, 3)
    flat = observations.flat(batch, 3)
    for number, sample in enumerate(samples):
        for name, leaf in observations.flat(sample).items():
            np.testing.assert_array_equal(flat[name][number], leaf)
    with pytest.raises(ValueError, match=r"leaf 'bits' .* expected 3 of them, got shape \(2, 2, 2\)"):
        observations.flat(batch | {"bits": batch["bits"][:2]}, 3)


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_actions_go_both_ways(space):
    actions = Actions(space)
    actions.space.seed(0)
    plain = np.stack([actions.space.sample() for _ in range(6)])
    raw = np.stack([actions.raw(each) for each in plain])
    assert raw.dtype == space.dtype and all(map(space.contains, raw))
    shape = (2, 3)
    again = actions.plain(raw.reshape(*shape, *space.shape))
    assert again.dtype == plain.dtype
    np.testing.assert_allclose(again, plain.reshape(*shape, *plain.shape[1:]), atol=1e-6)


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Discrete(3, start=5), [5, 8]),
        (spaces.Discrete(3), [0.0, 1.0]),
        (spaces.MultiDiscrete([2, 3]), [[1, 3]]),
        (spaces.MultiDiscrete([2, 3]), [1, 1, 1]),
        (spaces.Box(-2, 2, (1,)), [[2.5]]),
        (spaces.Box(-2, 2, (1,)), [[np.nan]]),
    ],
)
def test_actions_of_another_space_are_refused(space, actions):
    with pytest.raises(ValueError, match="Expected actions of"):
        Actions(space).plain(actions)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_door_tells_its_environments_own_spaces(outside, mode):
    with envs.make_vector(f"{outside}:Counter-v0", 2, seed=0, mode=mode) as door:
        interface = door.interface
    assert str(interface.observations.given) == "Discrete(8, start=-2)"
    assert interface.actions.given.high.tolist() == [[10.0], [3.0]]
    assert interface.spaces == (door.observation_space, door.action_space)
