"""Rows on disk: read back as they were, immutable, bounded in memory, not torn, and their loss survived."""

import errno
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from replay import Replay, chunk
from replay.store import Store
from tests.replay.streams import ROW_BYTES, Streams, check_batch, through_a_file

SIZES: dict[str, Any] = {
    "capacity": 400,
    "streams": 2,
    "batch_size": 6,
    "batch_length": 5,
    "seed": 4,
    "chunk": 8,
    "memory_gb": 2 * 8 * 2 * ROW_BYTES / 2**30,
}


def filled(folder: Path, rows: int, **sizes: Any) -> tuple[Replay, Streams]:
    replay, source = Replay(**SIZES | sizes, folder=folder), Streams(2, seed=1)
    for _ in range(rows):
        replay.add(source.rows(), source.state if replay.wants_state() else None)
    return replay, source


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npz"))


def test_memory_holds_the_newest_and_disk_the_rest(tmp_path: Path) -> None:
    """Samples are those of a replay in memory; the rings stay as small as they were asked to be."""
    replay, source = filled(tmp_path, 150)
    whole = Replay(**SIZES)
    for rows in source.record:
        whole.add(rows)
    assert replay.store.memory_rows == 16
    assert sum(ring.nbytes for ring in replay.store.rings.values()) <= SIZES["memory_gb"] * 2**30
    for _ in range(30):
        ours, expected = replay.sample(), whole.sample()
        check_batch(ours, source, 0)
        for key, value in expected.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=key)
    assert names(tmp_path) == [f"chunk-{s:04d}-{n:08d}.npz" for s in range(2) for n in range(18)]


def test_a_chunk_is_a_plain_uncompressed_npz(tmp_path: Path) -> None:
    """Anyone can read it: rows of one stream in their own types, actions as they were taken."""
    _, source = filled(tmp_path, 60)
    rows = chunk.read_rows(tmp_path / "chunk-0001-00000003.npz")
    for key, value in rows.items():
        np.testing.assert_array_equal(value, [row[key][1] for row in source.record[24:32]])


def test_a_reload_takes_the_chunks_over(tmp_path: Path) -> None:
    """Nothing on disk is written again, what comes is the same, and chunks nobody knows are put away."""
    replay, source = filled(tmp_path, 100)
    state, chunks = through_a_file(replay), replay.chunks()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(chunks) == {path.name for path in before}
    assert len(state["rows/reward"][0]) <= 9
    later, _ = [replay.add(source.rows()) for _ in range(30)], replay.chunks()
    assert len(later) == 30 and len(names(tmp_path)) > len(before)
    (tmp_path / ".chunk-0000-00000099.npz.123").write_bytes(b"half")
    again = Replay(**SIZES, folder=tmp_path)
    assert again.load_state_dict(state, chunks) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == before
    assert again.orphaned == 8 == len(list((tmp_path / "orphaned").iterdir()))
    assert not list(tmp_path.glob(".chunk-*"))
    for rows in source.record[100:]:
        again.add(rows)
    for _ in range(20):
        check_batch(again.sample(), source, 0)


@pytest.mark.faults("stray, half-written or renamed files")
@pytest.mark.faults("wrong content under right checksums")
def test_a_state_that_is_refused_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    """Chunks that it does not know are moved once all of it was taken over."""
    kept: dict[str, Any] = {"initial_state": "stored", "state_every": 5}
    replay, _ = filled(tmp_path, 60, **kept)
    state, chunks = through_a_file(replay), replay.chunks()
    replay.close()
    (tmp_path / "chunk-0001-00000007.npz").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyError, match="made"):
        Replay(**SIZES, **kept, folder=tmp_path).load_state_dict(
            {key: value for key, value in state.items() if key != "made"}, chunks
        )
    assert sorted(tmp_path.iterdir()) == before
    again = Replay(**SIZES, **kept, folder=tmp_path)
    again.load_state_dict(state, chunks)
    assert again.orphaned == 1 and sorted(tmp_path.iterdir()) != before


def test_what_is_left_of_another_run_is_put_away(tmp_path: Path) -> None:
    """A run that starts anew in a folder with chunks does not mix them with its own."""
    filled(tmp_path, 40)[0].chunks()
    found = names(tmp_path)
    replay, _ = filled(tmp_path, 1)
    assert names(tmp_path) == [] and replay.orphaned == len(found) == 8
    assert sorted(path.name for path in (tmp_path / "orphaned").iterdir()) == found


@pytest.mark.faults("chunk of the replay damaged or missing")
@pytest.mark.parametrize("harm", ["missing", "flipped", "cut"])
@pytest.mark.parametrize("number", [2, 11])  # on disk only, and in memory
def test_a_damaged_chunk_costs_its_own_rows(tmp_path: Path, harm: str, number: int) -> None:
    """All other rows are sampled as before, and none of the damaged ones."""
    replay, source = filled(tmp_path, 100)
    state, chunks = through_a_file(replay), replay.chunks()
    path = tmp_path / f"chunk-0001-{number:08d}.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if harm != "missing":
        path.write_bytes(content if harm == "flipped" else content[:-1])
    again = Replay(**SIZES, folder=tmp_path)
    (problem,) = again.load_state_dict(state, chunks)
    assert problem.startswith(str(path))
    assert ("missing" if harm == "missing" else "not what was written") in problem
    seen = set()
    for _ in range(300):
        batch = again.sample()
        check_batch(batch, source, 0)
        seen |= {tuple(row) for row in batch["obs/id"].reshape(-1, 2).astype(int).tolist()}
    lost = {(1, row) for row in range(number * 8, number * 8 + 8)}
    everything = {(stream, row) for stream in range(2) for row in range(100)}
    assert not seen & lost
    near = {
        (1, row) for row in range(number * 8 - 5, number * 8 + 14)
    }  # too few in a row for a window, or rare
    assert everything - near <= seen
    for _ in range(40):
        again.add(source.rows())
        check_batch(again.sample(), source, 0)
    # The next checkpoint does not name the chunk, and the next start knows all the same that it is gone.
    state, chunks = through_a_file(again), again.chunks()
    third = Replay(**SIZES, folder=tmp_path)
    assert path.name not in chunks and third.load_state_dict(state, chunks) == []
    for _ in range(100):
        check_batch(batch := third.sample(), source, 0)
        assert not {tuple(row) for row in batch["obs/id"].reshape(-1, 2).astype(int).tolist()} & lost


@pytest.mark.faults("chunk of the replay damaged or missing")
@pytest.mark.parametrize("left", [(), ("chunk-0001-00000003.npz",), ("chunk-0000-00000011.npz",)])
def test_a_replay_that_lost_its_chunks_is_ready_again_in_time(tmp_path: Path, left: tuple[str, ...]) -> None:
    """Of the tail and perhaps one chunk only whole windows are drawn; then those of new rows are, too."""
    replay, source = filled(tmp_path, 97)
    state, chunks = through_a_file(replay), replay.chunks()
    for name in chunks.keys() - set(left):
        (tmp_path / name).unlink()
    again = Replay(**SIZES, folder=tmp_path)
    problems = again.load_state_dict(state, chunks)
    assert len(problems) == 6 and problems[-1] == f"{len(chunks) - len(left) - 5} more chunks"
    if not left:
        assert not again.ready()
        with pytest.raises(RuntimeError, match=r"cannot be sampled yet|no window of 5 undamaged steps"):
            again.sample()
    added = 0
    while not again.ready():
        again.add(source.rows())
        added += 1
    assert added <= 16
    for _ in range(40):
        check_batch(again.sample(), source, 0)
        assert again.ready()
        again.add(source.rows())


def test_eviction_leaves_the_chunks_that_are_named(tmp_path: Path) -> None:
    """A chunk goes when none of its rows counts and no checkpoint needs it."""
    replay, source = filled(tmp_path, 40, capacity=60)
    needed = set(replay.chunks())
    for _ in range(60):
        replay.add(source.rows())
    assert needed < set(names(tmp_path))
    replay.prune(needed)
    assert needed < set(names(tmp_path))
    replay.prune(set())
    assert names(tmp_path) == sorted(replay.chunks())
    assert len(replay.chunks()) * 8 <= 60 + 2 * 8
    for _ in range(20):
        check_batch(replay.sample(), source, 70)


def test_eviction_removes_what_another_process_left(tmp_path: Path) -> None:
    """A checkpoint before the one that was loaded may have named chunks which this one does not know."""
    replay, source = filled(tmp_path, 40, capacity=60)
    for _ in range(60):
        replay.add(source.rows())
    state, chunks = through_a_file(replay), replay.chunks()
    assert chunks.keys() < set(names(tmp_path))
    again = Replay(**SIZES | {"capacity": 60}, folder=tmp_path)
    assert again.load_state_dict(state, chunks) == []
    again.prune(set())
    assert names(tmp_path) == sorted(chunks)


@pytest.mark.faults("disk full")
def test_a_full_disk_is_named_and_stays_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writing thread met is raised by the next calls, with path and errno; no half file is left."""
    replay, source = filled(tmp_path, 8)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="writing a chunk failed .No space left") as caught:
        for _ in range(9):
            replay.add(source.rows())
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "chunk-0000-00000000.npz")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="writing a chunk failed"):
        replay.state_dict()


@pytest.mark.faults("chunk of the replay damaged or missing")
def test_a_chunk_cut_while_running_is_named(tmp_path: Path) -> None:
    """A read that comes back short is an error, not zeros."""
    replay, _ = filled(tmp_path, 100)
    replay.chunks()
    path = tmp_path / "chunk-0000-00000000.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="chunk-0000-00000000.npz is damaged"):
        replay.store.read(np.array([0]), np.array([1]), 5)
    replay.store.read(np.array([0]), np.array([9]), 5)
    with pytest.raises(OSError, match="chunk-0000-00000000.npz ended before row"):
        replay.store.read(np.array([0]), np.array([1]), 5)


def test_too_little_memory_says_how_much_is_needed(tmp_path: Path) -> None:
    """Two chunks of every stream have to fit."""
    with pytest.raises(ValueError, match=r"replay.memory_gb is .* are needed: two chunks of 8 rows of 2 str"):
        filled(tmp_path, 1, memory_gb=5e-7)


def test_too_little_memory_is_seen_before_the_first_row(tmp_path: Path) -> None:
    """From the spaces alone, and by the very bytes of a row."""
    box = gymnasium.spaces.Box
    spaces = box(0, 9, (2,), np.float32), box(0, 255, (3, 2, 1), np.uint8), gymnasium.spaces.Discrete(1000)
    folder, enough = tmp_path / "replay", SIZES["memory_gb"]
    filled(folder, 0)[0].check_memory(spaces)
    with pytest.raises(ValueError, match=r"replay.memory_gb is .* are needed"):
        filled(folder, 0, memory_gb=0.999 * enough)[0].check_memory(spaces)
    assert not folder.exists()


def test_rows_that_are_being_read_are_not_overwritten() -> None:
    """Adding waits for a reader whose rows it would overwrite, and for no other."""
    store, source = Store(1, 8), Streams(1, seed=0)
    for _ in range(8):
        store.append(source.rows())
    log, released = [], threading.Event()

    def task(read: Any) -> Any:
        assert released.wait(60)
        rows = read(np.array([0]), np.array([3]), 5)
        log.append(store.added)
        return rows

    future = store.read_later(np.array([3]), np.array([8]), task)
    store.append(source.rows())  # takes the slot of row 0
    store.append(source.rows())
    assert not future.done()
    threading.Timer(0.2, released.set).start()
    store.append(source.rows())  # that of row 2, whose action led into row 3
    assert future.done() and log == [10]
    np.testing.assert_array_equal(future.result()["obs/id"][0, :, 1], [3, 4, 5, 6, 7])
