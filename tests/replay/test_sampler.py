"""Where windows start, and from which state: none, a kept one, one burnt in, or that of the last window."""

from typing import Any

import numpy as np
import pytest

from replay import Replay
from tests.replay.streams import MODES, Streams, check_batch

SIZES: dict[str, Any] = {"capacity": 200, "streams": 2, "batch_size": 40, "batch_length": 6, "seed": 7}


def filled(rows: int, **sizes: Any) -> tuple[Replay, Streams]:
    replay, source = Replay(**SIZES | sizes), Streams(2, seed=3)
    for _ in range(rows):
        replay.add(source.rows(), source.state if replay.wants_state() else None)
    return replay, source


@pytest.mark.parametrize("rows", [20, 330])
def test_burn_in_begins_at_a_kept_state_and_ends_at_the_window(rows: int) -> None:
    """Its rows are the stream's own, its state is the one before them, and windows start anywhere."""
    replay, source = filled(rows, **MODES["burn_in"], online=False)
    oldest, starts = max(0, rows - 100), set()
    for _ in range(40):
        batch = replay.sample()
        before, length = batch["burn_in/obs/id"].astype(int), batch["burn_in/length"]
        check_batch({key: value for key, value in batch.items() if key != "window"}, source, oldest)
        assert before.shape == (40, 6, 2) and (length >= 0).all() and (length <= 6).all()
        begin = batch["window"][:, 1] - length
        assert (begin % 4 == 0).all() and (begin >= oldest).all()
        np.testing.assert_array_equal(before[..., 1], begin[:, None] + np.arange(6))
        np.testing.assert_array_equal(before[..., 0], np.tile(batch["window"][:, :1], 6))
        np.testing.assert_array_equal(batch["state/memory"], before[:, 0])
        record = {key: np.stack([row[key] for row in source.record]) for key in ("action", "is_first")}
        first = record["is_first"][before[..., 1], before[..., 0]]
        np.testing.assert_array_equal(batch["burn_in/is_first"], first)
        taken = record["action"][before[..., 1] - 1, before[..., 0]]
        np.testing.assert_array_equal(batch["burn_in/action"], np.where(first, 0, taken))
        starts |= set(batch["window"][:, 1].tolist())
    assert {start % 4 for start in starts} == {0, 1, 2, 3}


def test_the_state_that_training_hands_back_is_kept_at_its_row() -> None:
    """`end` is the last step of a window whose successor has a kept state."""
    replay, _ = filled(60, **MODES["burn_in"], online=False)
    batch = replay.sample()
    row = batch["window"][:, 1] + batch["end"] + 1
    assert (row % 4 == 0).all() and (batch["end"] >= 2).all() and (batch["end"] <= 5).all()
    replay.refresh(batch["window"], {"memory": np.stack([row, row + 0.5], 1)}, update=5)
    assert replay.states is not None
    kept = replay.states.get(batch["window"][:, 0], row)["state/memory"]
    np.testing.assert_array_equal(kept, np.stack([row, row + 0.5], 1))
    assert (replay.states.age(batch["window"][:, 0], row) == 0).all()


def test_too_old_a_state_is_left_for_a_younger_one_or_the_longest_burn_in() -> None:
    """Young: the nearest. All too old: as far back as there is room. Young one further back: that one."""
    replay, _ = filled(90, initial_state="burn_in", state_every=1, burn_in=5, max_age=10, online=False)
    batch = replay.sample()
    assert (batch["burn_in/length"] == 0).all()
    replay.refresh(batch["window"][:1], {"memory": np.zeros((1, 2), np.float32)}, update=11)
    length, window = (batch := replay.sample())["burn_in/length"], batch["window"]
    renewed = replay.states.age(window[:, :1], window[:, 1:] - np.arange(6)) == 0  # type: ignore[union-attr]
    assert (length[~renewed.any(1)] == np.minimum(5, window[~renewed.any(1), 1])).all()
    assert (length[renewed.any(1)] == renewed.argmax(1)[renewed.any(1)]).all()
    replay.refresh(np.array([[0, 40]]), {"memory": np.zeros((1, 2), np.float32)}, update=11)  # of row 46
    found: dict[int, int] = {}  # of stream 0: first row of a window -> length of the burn-in
    while not {46, 48, 51} <= found.keys():
        batch = replay.sample()
        pairs = zip(batch["window"], batch["burn_in/length"], strict=True)
        found |= {int(start): int(length) for (stream, start), length in pairs if stream == 0}
    assert (found[46], found[48], found[51]) == (0, 2, 5)


def test_consecutive_windows_go_on_where_the_last_ones_ended() -> None:
    """Each row of a batch follows its own of the batch before, with the state that training had there."""
    replay, source = filled(60, **MODES["consecutive"], batch_size=5)
    batch, jumps = replay.sample(), 0
    for update in range(60):
        mark = np.full((5, 2), update, np.float32)
        replay.refresh(batch["window"], {"memory": mark}, update)
        following = replay.sample()
        on = (following["window"] == batch["window"] + np.array([0, 6])).all(1)
        end = batch["window"][:, 1] + 12 > len(source.record)
        assert (on | end).all(), "a window did not go on although there were rows"
        jumps += int((~on).sum())
        twice = len({tuple(window) for window in batch["window"].tolist()}) < 5
        if not twice:
            np.testing.assert_array_equal(following["state/memory"][on], mark[on])
        batch = following
        replay.add(source.rows(), source.state if replay.wants_state() else None)
    assert jumps > 5, "no window reached the newest row"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"initial_state": "burn_in", "burn_in": 8}, "burn_in must be .* at most batch_length 6, got 8"),
        (
            {"initial_state": "burn_in", "state_every": 5, "burn_in": 4},
            "at least replay.state_every 5, .* got 4",
        ),
        ({"consecutive": True}, "online and replay.consecutive exclude each other"),
        ({"consecutive": True, "online": False, "initial_state": "zero"}, "consecutive carries the state"),
    ],
)
def test_options_that_do_not_go_together(wrong: dict[str, Any], message: str) -> None:
    """They are refused with what is allowed."""
    with pytest.raises(ValueError, match=message):
        Replay(**SIZES | wrong)


@pytest.mark.parametrize("mode", MODES)
def test_peeking_changes_no_batch(mode: str) -> None:
    """What is drawn for a picture is neither missing nor skipped in training."""
    peeked, plain = filled(60, **MODES[mode])[0], filled(60, **MODES[mode])[0]
    third, fourth, again = (peeked.peek(number) for number in (3, 4, 3))
    np.testing.assert_array_equal(third["obs/id"], again["obs/id"])
    assert (third["obs/id"] != fourth["obs/id"]).any()
    for _ in range(5):
        expected, got = plain.sample(), peeked.sample()
        assert expected.keys() == got.keys() == third.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(got[key], value)
        peeked.peek(5)
