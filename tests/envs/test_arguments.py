import pytest

from envs.arguments import check_flag, check_names, check_one_of, check_whole, parse_task


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
    ("text", "value"),
    [
        ("(3,4)", (3, 4)),
        ("[1, true, null]", [1, True, None]),
        ("['a,b', \"c\"]", ["a,b", "c"]),
        ('{"a": {"b": [1, 2]}}', {"a": {"b": [1, 2]}}),
        ('"1"', "1"),
        ("'x=1,y=2:z'", "x=1,y=2:z"),
        ("http://host:8080/?a=b", "http://host:8080/?a=b"),
        ("don't", "don't"),
        ("4x4", "4x4"),
    ],
)
def test_values_with_commas_colons_and_quotes(text, value):
    assert parse_task(f"module:Id-v0:first=1,it={text},last=2") == (
        "module:Id-v0",
        {"first": 1, "it": value, "last": 2},
    )


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("t:a=(1,2", "not of the form key=value.*quoted or in brackets"),
        ("t:a=1,b='", "not of the form key=value"),
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


@pytest.mark.parametrize("value", [2, True, 1.0, "1"])
def test_check_one_of_refuses(value):
    with pytest.raises(ValueError, match=r"Task: argument 'n' must be 1, 3 or 10, got "):
        check_one_of("Task", "n", value, (1, 3, 10))
    with pytest.raises(ValueError, match=r"must be red or blue, got 'bleu'. Did you mean 'blue'"):
        check_one_of("Task", "n", "bleu", ("red", "blue"))


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_check_flag_refuses(value):
    with pytest.raises(ValueError, match=r"Task: argument 'n' must be true or false, got "):
        check_flag("Task", "n", value)
