import pytest

import envs
from envs.arguments import check_names, check_whole, did_you_mean, parse_task


@pytest.mark.parametrize(
    ("task", "head", "arguments"),
    [
        ("memory_chain", "memory_chain", {}),
        ("memory_chain:n=64", "memory_chain", {"n": 64}),
        (" memory_chain : n = 64 , bits=2", "memory_chain", {"n": 64, "bits": 2}),
        ("module:Id-v0", "module:Id-v0", {}),
        ("a.b:ns/Id-v0:x=1.5,y=true,z=False,w=4x4,s=-3", "a.b:ns/Id-v0", None),
        ("popgym:RepeatPreviousEasy", "popgym:RepeatPreviousEasy", {}),
    ],
)
def test_parse_task(task, head, arguments):
    found_head, found = parse_task(task)
    assert found_head.strip() == head
    assert found == (
        {"x": 1.5, "y": True, "z": False, "w": "4x4", "s": -3} if arguments is None else arguments
    )


def test_values_keep_their_kind():
    values = parse_task("t:a=1,b=1.0,c=true,d=one,e=1e3")[1]
    assert {key: type(value) for key, value in values.items()} == {
        "a": int,
        "b": float,
        "c": bool,
        "d": str,
        "e": float,
    }


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("", "must be a name"),
        ("t:a=", "not of the form key=value"),
        ("t:a=1,b", "not of the form key=value"),
        ("t:a=1,a=2", "given twice"),
        ("t:1a=2", "not of the form key=value"),
    ],
)
def test_parse_task_says_what_is_wrong(task, says):
    with pytest.raises(ValueError, match=says):
        parse_task(task)


def test_unknown_names_get_the_nearest():
    assert "'memory_chain'" in did_you_mean("memory_chian", ["memory_chain", "tmaze"])
    assert did_you_mean("zzzz", ["memory_chain"]) == ""
    with pytest.raises(
        ValueError, match=r"Unknown argument 'longth'.*takes bits, length.*Did you mean 'length'"
    ):
        check_names("t:longth=3", ["longth"], ["length", "bits"])
    with pytest.raises(ValueError, match="takes no arguments"):
        check_names("t:a=3", ["a"], [])


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, 11])
def test_check_whole_refuses(value):
    with pytest.raises(ValueError, match=r"Task: argument 'n' must be a whole number from 1 to 10"):
        check_whole("Task", "n", value, 1, 10)


@pytest.mark.parametrize("task", ["memory_chain", "discounting_chain", "tmaze", "rooms"])
@pytest.mark.parametrize("action", [-1, 99, 0.5, "left"])
def test_actions_out_of_the_space_are_refused(task, action):
    env = envs.make(task).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r": an action must be a whole number from 0 to \d, got "):
        env.step(action)
