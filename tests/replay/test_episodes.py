"""Batches of episodes on disk: whole, each once an epoch, in windows that follow one another."""

import json
from pathlib import Path

import numpy as np
import pytest

from replay import chunk
from replay.episodes import Episodes, load

Batch = dict[str, np.ndarray]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Episodes of 3 to 7 rows; row t of episode n shows (n, t) and takes action 10 n + t."""
    for number in range(5):
        length = 3 + number
        t = np.arange(length)
        rows = {
            "obs/vector": np.stack([np.full(length, number), t], 1).astype(np.float32),
            "obs/half": np.full((length, 1), 0.5, np.float32),
            "obs/image": np.full((length, 2, 2, 1), number, np.uint8),
            "probe/place": t,
            "action": np.where(t == length - 1, 0, 10 * number + t),
            "reward": (t * 300).astype(np.float32),
            "is_first": t == 0,
            "is_last": t == length - 1,
            "is_terminal": t == length - 1,
        }
        chunk.write(chunk.path_of(tmp_path, number), rows)
    return chunk.paths(tmp_path)


def made(paths: list[Path], rows: int = 2, length: int = 4, **options: object) -> Episodes:
    given: dict = {"seed": 0, "carry": True, "memory": 1 << 20} | options
    return Episodes(paths, rows, length, **given)


def taken(source: Episodes, count: int) -> list[Batch]:
    batches = [source.next() for _ in range(count)]
    source.close()
    return batches


def test_an_episode_as_batches_hold_it(paths: list[Path]) -> None:
    rows = load(paths[2])
    np.testing.assert_array_equal(rows["action"], [0, 20, 21, 22, 23])
    assert "probe/place" not in rows


def test_streams_hold_whole_episodes_one_after_the_other(paths: list[Path]) -> None:
    batches = taken(made(paths), 50)
    for key, kind in {"obs/vector": "float32", "obs/image": "uint8", "reward": "float32"}.items():
        assert batches[0][key].dtype == kind and batches[0][key].shape[:2] == (2, 4)
    begun = []
    for stream in range(2):
        rows = {
            key: np.concatenate([batch[key][stream] for batch in batches])
            for key in ("obs/vector", "obs/half", "action", "reward", "is_first", "is_last")
        }
        starts = np.flatnonzero(rows["is_first"])
        assert starts[0] == 0 and (rows["obs/half"] == 0.5).all()
        for begin, end in zip(starts, [*starts[1:], None], strict=True):
            number, t = rows["obs/vector"][begin:end].T
            assert (number == number[0]).all() and (t == np.arange(len(t))).all()
            if end is not None:
                assert len(t) == 3 + number[0] and rows["is_last"][end - 1]
            np.testing.assert_array_equal(rows["action"][begin:end], np.where(t == 0, 0, 10 * number + t - 1))
            np.testing.assert_array_equal(rows["reward"][begin:end], 300 * t)
        begun += [int(number) for number in rows["obs/vector"][starts, 0]]
    share = np.bincount(begun) / len(begun)
    assert np.abs(share - 0.2).max() < 0.05, "some episodes come more often than others"


def test_each_episode_once_an_epoch(paths: list[Path]) -> None:
    """With one stream the order is that of the epochs' permutations, which differ."""
    batches = taken(made(paths, rows=1, length=25), 6)  # an epoch has 25 rows
    orders = [batch["obs/vector"][0, batch["is_first"][0], 0].tolist() for batch in batches]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(map(tuple, orders))) > 1
    other = taken(made(paths, rows=1, length=25, seed=1), 6)
    assert [batch["obs/vector"].tolist() for batch in other] != [b["obs/vector"].tolist() for b in batches]


@pytest.mark.parametrize("memory", [0, 400, 1 << 20])
def test_memory_is_bounded_and_changes_nothing(paths: list[Path], memory: int) -> None:
    source = made(paths, memory=memory)
    batches = taken(source, 30)
    held = sum(value.nbytes for rows in source._kept.values() for value in rows.values())
    assert held == source._bytes <= memory and (len(source._kept) == 5) == (memory == 1 << 20)
    for batch, whole in zip(batches, taken(made(paths), 30), strict=True):
        for key, value in whole.items():
            np.testing.assert_array_equal(batch[key], value)


def test_a_window_goes_on_from_the_state_that_training_reached(paths: list[Path]) -> None:
    source = made(paths)
    first = source.next()
    assert not any(key.startswith("state/") for key in first)
    source.refresh(first["window"], {"memory": np.array([[3.0], [4.0]])}, 1)
    second = source.next()
    np.testing.assert_array_equal(second["state/memory"], [[3], [4]])
    source.close()
    alone = made(paths, carry=False)
    assert "window" not in alone.next()
    alone.close()


def test_going_on_changes_nothing(paths: list[Path]) -> None:
    whole = taken(made(paths), 12)
    source = made(paths)
    for number in range(5):
        batch = source.next()
        source.refresh(batch["window"], {"memory": np.full((2, 1), number)}, number)
    saved = {key: value.copy() for key, value in source.state_dict().items()}
    source.close()
    again = made(paths)
    again.load_state_dict(saved)
    for number, batch in enumerate(taken(again, 7)):
        np.testing.assert_array_equal(batch["state/memory"], np.full((2, 1), 4))
        for key in ("obs/vector", "action", "is_first", "window"):
            np.testing.assert_array_equal(batch[key], whole[5 + number][key])
    other = made(paths, rows=3)
    with pytest.raises(ValueError, match=r"places are \(2, 2\), expected \(3, 2\)"):
        other.load_state_dict(saved)
    other.close()


def test_what_does_not_suit_ends_reading(paths: list[Path]) -> None:
    def refuse(path: Path) -> Batch:
        raise ValueError(f"{path.name} does not suit")

    source = made(paths, load=refuse)
    with pytest.raises(ValueError, match=r"episode-0000000\d.npz does not suit"):
        source.next()
    source.close()


def test_lengths_are_read_alone(paths: list[Path]) -> None:
    assert [chunk.length(path) for path in paths] == [3, 4, 5, 6, 7]
    assert [chunk.number_of(path) for path in paths] == [0, 1, 2, 3, 4]
    paths[0].write_text(json.dumps({}))
    with pytest.raises(ValueError, match="is damaged or not a chunk"):
        chunk.length(paths[0])
