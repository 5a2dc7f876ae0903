"""What shards of a replay hold can be joined, and split for another number of them, with nothing lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import Replay
from replay.shards import join, split

STREAMS, LENGTH, BATCH = 4, 4, 8
OPTIONS: dict[str, Any] = {"batch_length": LENGTH, "initial_state": "stored", "state_every": 2, "chunk": 8}


def shard(number: int, shards: int, folder: Path, seed: int = 0) -> Replay:
    streams = STREAMS // shards
    sizes = {"streams": streams, "batch_size": BATCH // shards, "capacity": 40 * streams}
    return Replay(**sizes, seed=seed + number, first_stream=number * streams, folder=folder, **OPTIONS)


def fill(replay: Replay, first: int, rows: range) -> None:
    """Rows that say which they are."""
    streams = first + np.arange(replay.streams)
    for row in rows:
        ends = np.full(replay.streams, row % 10 == 9)
        replay.add(
            {
                "obs/it": np.stack([streams, np.full_like(streams, row)], 1).astype(np.float32),
                "action": streams,
                "reward": np.full(replay.streams, row, np.float32),
                "is_first": np.full(replay.streams, row % 10 == 0),
                "is_last": ends,
                "is_terminal": ends,
            },
            {"leaf": np.full((replay.streams, 1), row, np.float32) + 100 * streams[:, None]},
        )


def saved(replays: list[Replay]) -> tuple[dict[str, Any], dict[str, Any]]:
    chunks = {name: found for replay in replays for name, found in replay.chunks().items()}
    return join([replay.state_dict() for replay in replays]), chunks


def resumed(state: dict[str, Any], chunks: dict[str, Any], shards: int, folder: Path) -> list[Replay]:
    found = []
    for number in range(shards):
        replay = shard(number, shards, folder)
        share, _ = split(state, number, shards)
        assert replay.load_state_dict(share, chunks) == []
        found.append(replay)
    return found


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_nothing_is_lost_and_as_many_shards_go_on_alike(before: int, after: int, tmp_path: Path) -> None:
    old = [shard(number, before, tmp_path) for number in range(before)]
    for number, replay in enumerate(old):
        fill(replay, number * replay.streams, range(30))
        replay.next()
    state, chunks = saved(old)
    new = resumed(state, chunks, after, tmp_path)
    assert sum(map(len, new)) == sum(map(len, old))
    batches = [replay.next() for replay in new]
    if before == after:
        for replay, batch in zip(old, batches, strict=True):
            expected = replay.next()
            assert all(np.array_equal(batch[key], expected[key]) for key in expected)
        return
    shown = np.concatenate([batch["obs/it"][:, 0] for batch in batches])
    assert set(map(tuple, shown.tolist())) == set(map(tuple, state["ahead"][:, :2].tolist()))
    for number, batch in enumerate(batches):
        stream, row = batch["obs/it"][:, 0].T
        assert set(stream // (STREAMS // after)) == {number}
        assert np.array_equal(batch["state/leaf"][:, 0], 100 * stream + row)
        assert np.array_equal(batch["window"][:, 0], stream - number * STREAMS // after)
    again, known = saved(new)
    assert again["streams"] == STREAMS and known == chunks
    assert all(
        np.array_equal(again[key], state[key]) for key in state if key.startswith(("rows/", "states/"))
    )


def test_a_shard_that_lost_its_oldest_chunks_goes_with_the_others(tmp_path: Path) -> None:
    old = [shard(number, 2, tmp_path) for number in range(2)]
    for number, replay in enumerate(old):
        fill(replay, number * replay.streams, range(30))
    state, chunks = saved(old)
    for path in tmp_path.glob("chunk-000[23]-00000000.npz"):
        path.unlink()
    again = [shard(number, 2, tmp_path) for number in range(2)]
    for number, replay in enumerate(again):
        share, _ = split(state, number, 2)
        assert len(replay.load_state_dict(share, chunks)) == 2 * number
    state, chunks = saved(again)
    assert [len(replay) for replay in resumed(state, chunks, 2, tmp_path)] == [60, 44]
