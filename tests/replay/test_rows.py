"""What is no row is refused, with where it is, what was expected and what came; nothing is stored."""

import numpy as np
import pytest

from replay import Replay
from tests.replay.streams import Streams

TWO = np.array([False, True])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.array([0, np.nan], np.float32)}, "reward of environment 1 at row 7 is nan"),
        ({"reward": np.zeros(2)}, r"row 7 of the replay: 'reward' is float64 \(2,\), but float32 \(2,\)"),
        ({"obs/image": np.zeros((2, 3, 2, 3), np.uint8)}, r"is uint8 \(2, 3, 2, 3\), but .* \(2, 3, 2, 1\)"),
        ({"obs/more": TWO}, r"'obs/more' is bool \(2,\), but missing since the first row"),
        ({"action": None}, r"'action' is missing, but int64 \(2,\) since the first row"),
        ({"is_first": None}, "environment 0 at row 7: is_first"),
        ({"is_last": ~TWO, "is_terminal": TWO}, "environment 1 is terminal at row 7 without being last"),
    ],
)
def test_wrong_rows_are_refused(change: dict[str, np.ndarray | None], message: str) -> None:
    """A row must be like those before, and continue them."""
    replay, source = Replay(60, 2, 4, 5, seed=0), Streams(2, seed=1)
    for _ in range(7):
        replay.add(source.rows())
    good = source.rows()
    if "is_first" in change:
        change = {"is_first": ~good["is_first"]}
    with pytest.raises(ValueError, match=message):
        replay.add({key: value for key, value in (good | change).items() if value is not None})
    assert len(replay) == 14
    replay.add(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs/id": np.zeros((2, 3))}, "first row .*'obs/id' must be uint8 or float32, got float64"),
        ({"action": np.zeros(2, np.int32)}, "'action' must be int64 or float32, got int32"),
        ({"reward": np.zeros((2, 1), np.float32)}, r"'reward' must have shape \(2,\), got \(2, 1\)"),
        ({"obs/id": np.zeros((3, 2), np.float32)}, r"'obs/id' must have shape \(2, 2\), got \(3, 2\)"),
        ({"extra": np.zeros(2)}, r"unknown: \['extra'\]"),
        ({"probe/x": np.zeros(2)}, r"unknown: \['probe/x'\]"),
        ({"obs/id": None, "obs/image": None}, r"missing: \['obs/<name>'\]"),
    ],
)
def test_wrong_first_rows_are_refused(change: dict[str, np.ndarray | None], message: str) -> None:
    """The first rows decide the rings, so they are checked against what a row must be."""
    rows = {key: value for key, value in (Streams(2, 0).rows() | change).items() if value is not None}
    replay = Replay(60, 2, 4, 5, seed=0)
    with pytest.raises(ValueError, match=message):
        replay.add(rows)
    assert len(replay) == 0
