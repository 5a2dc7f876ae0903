"""Batches read ahead are those that would have been read, at whatever time, also after a resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import Loader, Replay
from tests.replay.streams import ROW_BYTES, Streams, check_batch, through_a_file
from tests.replay.test_sampler import MODES

SIZES: dict[str, Any] = {
    "capacity": 160,
    "streams": 2,
    "batch_size": 3,
    "batch_length": 6,
    "seed": 7,
    "chunk": 10,
    "memory_gb": 2 * 10 * 2 * ROW_BYTES / 2**30,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [10, 300])
def test_a_resume_changes_no_batch(tmp_path: Path, mode: str, chunk: int) -> None:
    """Rows, states and windows of a loader that was saved and loaded are those of one that was not.

    Also where a chunk is longer than what counts, so that all rows are in checkpoints.
    """
    size = {"chunk": chunk, "memory_gb": SIZES["memory_gb"] * chunk / SIZES["chunk"]}
    sizes, source = SIZES | size | MODES[mode], Streams(2, seed=3)
    saved = loaded = Loader(Replay(**sizes, folder=tmp_path / "one"))
    for row in range(220):
        if row in (40, 100, 101, 102, 150):
            state, chunks = through_a_file(saved), saved.replay.chunks()
            if loaded is not saved:
                loaded.replay.close()
            loaded = Loader(Replay(**sizes, folder=tmp_path / f"two{row}"))
            (tmp_path / f"two{row}").mkdir()
            for name in chunks:
                (tmp_path / f"two{row}" / name).write_bytes((tmp_path / "one" / name).read_bytes())
            assert loaded.load_state_dict(state, chunks) == []
        both = (saved, loaded) if row >= 40 else (saved,)
        rows = source.rows()
        for loader in both:
            loader.replay.add(rows, source.state if loader.replay.wants_state() else None)
        if row % 3 or not saved.replay.ready():
            continue
        batch, *others = [loader.next() for loader in both]
        for other in others:
            assert other.keys() == batch.keys()
            for key, value in batch.items():
                np.testing.assert_array_equal(other[key], value, err_msg=key)
        for loader in both:
            if "window" in batch:
                loader.replay.refresh(batch["window"], {"memory": batch["obs/id"][:, -1]}, row)


def test_batches_are_prepared_in_the_background() -> None:
    """What `prepare` makes of the rows is what comes, and its error too."""
    replay, source = Replay(**SIZES), Streams(2, seed=3)
    for _ in range(20):
        replay.add(source.rows())
    loader = Loader(replay, lambda rows: {"reward": rows["reward"] * 2})
    assert loader.next().keys() == {"reward"}

    def fails(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise ArithmeticError("no batch")

    loader = Loader(replay, fails)
    with pytest.raises(ArithmeticError, match="no batch"):
        loader.next()


def test_a_background_error_ends_the_next_turn() -> None:
    """Adding a row raises it, before anyone asks for the batch."""
    replay, source = Replay(**SIZES), Streams(2, seed=3)
    for _ in range(20):
        replay.add(source.rows())
    count = 0

    def fails_later(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal count
        count += 1
        if count == 2:
            raise ArithmeticError("the second batch")
        return rows

    Loader(replay, fails_later).next()
    replay.store._reader.submit(int).result()  # the thread is through with the second one
    with pytest.raises(ArithmeticError, match="the second batch"):
        replay.add(source.rows())


def test_windows_that_were_evicted_are_chosen_anew() -> None:
    """However many rows come between two batches, the batch is of rows that count."""
    replay, source = Replay(**SIZES, initial_state="stored", state_every=3), Streams(2, seed=3)
    loader = Loader(replay)
    for row in range(400):
        replay.add(source.rows(), source.state if replay.wants_state() else None)
        if row % 190 == 100:
            check_batch(loader.next(), source, max(0, row + 1 - 80))
