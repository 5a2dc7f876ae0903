"""The replay gives back what was stored: whole windows, shifted actions, honest seams, nothing missing."""

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import Replay
from replay.rows import Rows
from tests.replay.streams import MODES, ROW_BYTES, Streams, check_batch, through_a_file

ON_DISK: dict[str, Any] = {
    "capacity": 160,
    "streams": 2,
    "batch_size": 3,
    "batch_length": 6,
    "seed": 7,
    "chunk": 10,
    "memory_gb": 2 * 10 * 2 * ROW_BYTES / 2**30,
}


@pytest.mark.parametrize("case", range(40))
def test_random_lives(case: int, tmp_path: Path) -> None:
    """Whatever the sizes, samples are stored rows, windows stay in a stream, and the capacity holds."""
    rng = np.random.default_rng(case)
    streams, length = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    capacity = int(streams * (length + 1 + rng.integers(0, 30)) + rng.integers(0, streams))
    online = bool(rng.integers(2))
    sizes = {"batch_size": int(rng.integers(1, 7)), "batch_length": length, "seed": case, "online": online}
    divisors = [every for every in range(1, length + 1) if length % every == 0]
    every = int(rng.choice([0, *divisors]))
    if every:
        sizes |= {"initial_state": "stored", "state_every": every}
    capacity += streams * every
    if rng.random() < 0.6:  # on disk, with as little in memory as there can be
        sizes |= {"folder": tmp_path, "chunk": int(rng.integers(1, 12))}
        sizes["memory_gb"] = 2 * streams * sizes["chunk"] * ROW_BYTES / 2**30
    replay, source = Replay(capacity, streams, **sizes), Streams(streams, case)
    for _ in range(int(rng.integers(1, 150))):
        replay.add(source.rows(), source.state if replay.wants_state() else None)
        assert len(replay) <= capacity
        assert len(replay) == streams * min(len(source.record), capacity // streams)
        if replay.ready() and rng.random() < 0.4:
            batch = replay.sample()
            check_batch(batch, source, len(source.record) - len(replay) // streams)
            if every:
                replay.refresh(batch["window"], {"memory": batch["obs/id"][:, -1] + np.array([0, 1])})
        if rng.random() < 0.03:
            state = through_a_file(replay)
            chunks = replay.chunks()
            replay.prune(set(chunks))
            replay = Replay(capacity, streams, **sizes)
            assert replay.load_state_dict(state, chunks) == []
            if rng.random() < 0.5:
                replay.close_episodes(np.ones(streams, bool))
                source.restart()
            if replay.ready():
                check_batch(replay.sample(), source, len(source.record) - len(replay) // streams)


def filled(rows: int, capacity: int = 60, streams: int = 2, **sizes: int | bool) -> tuple[Replay, Streams]:
    """Return a replay to which `rows` rows of each stream were added, and their source."""
    settings = {"batch_size": 4, "batch_length": 5, "seed": 0, "online": False} | sizes
    replay, source = Replay(capacity, streams, **settings), Streams(streams, seed=1)
    for _ in range(rows):
        replay.add(source.rows())
    return replay, source


@pytest.mark.parametrize("rows", [17, 30, 75])
def test_uniform_over_every_valid_window(rows: int) -> None:
    """Each window whose incoming action is known is drawn, and about equally often."""
    replay, _ = filled(rows, batch_size=100)
    oldest = max(0, rows - 30)
    valid = {(stream, start) for stream in range(2) for start in range(oldest + bool(oldest), rows - 4)}
    counts = dict.fromkeys(valid, 0)
    for _ in range(200):
        for stream, start in replay.sample()["obs/id"][:, 0].astype(int):
            counts[stream, start] += 1  # a KeyError here is a window that is not valid
    expected = 20000 / len(valid)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(valid) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_ready_needs_a_whole_window() -> None:
    """A batch can be drawn from the T-th row on; before it the error says what is missing."""
    replay, source = filled(4)
    assert not replay.ready()
    with pytest.raises(RuntimeError, match="5 steps in each of 2 streams, 4 are stored"):
        replay.sample()
    replay.add(source.rows())
    assert replay.ready()
    check_batch(replay.sample(), source, 0)


def test_online_windows_are_served_once_and_first() -> None:
    """Each completed window of a stream leads the next batches exactly once, the rest is uniform."""
    replay, source = filled(0, capacity=400, streams=3, batch_size=2, online=True)
    served = []
    for _ in range(8):
        for _ in range(5):
            replay.add(source.rows())
        for left in (3, 1, 0):
            starts = replay.sample()["obs/id"][:, 0].astype(int)
            served += [tuple(start) for start in starts[: min(2, left)]]
    assert served == [(stream, start) for start in range(0, 40, 5) for stream in range(3)]


def test_online_queue_drops_evicted_windows() -> None:
    """Windows that were evicted before a batch was asked for are dropped, and the queue stays small."""
    replay, _ = filled(500, online=True, batch_size=20)
    assert len(replay.sampler.queue) <= 2 * (30 // 5)
    starts = replay.sample()["obs/id"][:, 0].astype(int)
    assert starts[:10].tolist() == [[s, t] for t in (475, 480, 485, 490, 495) for s in range(2)]


def test_terminal_observation_and_time_limit_are_stored() -> None:
    """The row that ends an episode keeps its own observation; a time limit is last without being terminal."""
    replay, source = filled(30, batch_size=300)
    batch = replay.sample()
    check_batch(batch, source, 0)
    assert batch["is_terminal"].any()
    assert (batch["is_last"] & ~batch["is_terminal"]).any()


def test_images_stay_bytes_and_memory_is_reported() -> None:
    """uint8 comes back as uint8, and the memory is what the arrays take."""
    replay, _ = filled(10)
    assert replay.sample()["obs/image"].dtype == np.uint8
    assert replay.describe() == (
        "replay: 60 steps (2 streams x 30), 29 B a step, when full 1.7 KiB in memory; 20 steps now"
    )


def test_actions_of_every_format_are_shifted() -> None:
    """Vectors of numbers and of choices are shifted and zeroed like single choices."""
    for action in (np.ones((1, 2, 3), np.float32), np.ones((1, 4), np.int64)):
        replay = Replay(100, 1, 1, 3, seed=0)
        for t in range(3):
            flags = {"is_first": np.array([t == 0]), "is_last": np.array([False])}
            rows = {"obs/vector": np.zeros((1, 2), np.float32), "action": action * (t + 1)} | flags
            replay.add(rows | {"reward": np.zeros(1, np.float32), "is_terminal": np.array([False])})
        sampled = replay.sample()["action"]
        assert sampled.dtype == action.dtype
        np.testing.assert_array_equal(sampled, np.stack([action * 0, action, action * 2], 1))


def test_episodes_that_are_cut_off_are_closed() -> None:
    """The newest rows become last but not terminal, and the next ones must start episodes."""
    source = Streams(2, seed=0, mean_episode=1e9)
    replay = Replay(60, 2, 4, 5, seed=0)
    replay.close_episodes(np.ones(2, bool))
    for _ in range(8):
        replay.add(source.rows())
    state = through_a_file(replay)
    replay = Replay(60, 2, 4, 5, seed=0)
    replay.load_state_dict(state)
    assert not replay.state_dict()["rows/is_last"].any()
    replay.close_episodes(np.array([True, False]))
    np.testing.assert_array_equal(replay.state_dict()["rows/is_last"][:, -1], [True, False])
    replay.close_episodes(np.ones(2, bool))
    assert state["rows/is_last"].sum() == 0
    assert replay.state_dict()["rows/is_last"][:, -1].all()
    assert not replay.state_dict()["rows/is_terminal"].any()
    with pytest.raises(ValueError, match=r"environment 0 at row 8: is_first must be True: .* just loaded"):
        replay.add(source.rows())
    source.record.pop()
    source.restart()
    replay.add(source.rows())
    assert len(replay) == 18


@pytest.mark.parametrize(("before", "after"), [(60, 30), (30, 60), (60, 60)])
def test_resume_with_another_capacity_keeps_the_newest(before: int, after: int) -> None:
    """A changed capacity keeps as many of the newest rows as fit, and the ring goes on from there."""
    replay, source = filled(41, capacity=before, online=True)
    other = Replay(after, 2, 50, 5, seed=0)
    other.load_state_dict(replay.state_dict())
    other.close_episodes(np.ones(2, bool))
    source.restart()
    assert len(other) == min(before, after)
    for _ in range(50):
        check_batch(other.sample(), source, len(source.record) - len(other) // 2)
        other.add(source.rows())


def test_another_batch_length_starts_the_online_queue_anew() -> None:
    """Windows queued under another length are not served."""
    replay, _ = filled(10, online=True)
    other = Replay(60, 2, 4, 7, seed=0)
    other.load_state_dict(replay.state_dict())
    assert not other.sampler.queue
    assert other.sample()["reward"].shape == (4, 7)


def test_a_window_starts_from_the_newest_state_at_its_first_row() -> None:
    """First the state that acting had; then the one that training found, where a window ended there."""
    replay, source = Replay(60, 2, 100, 6, seed=0, initial_state="stored", state_every=3), Streams(2, seed=1)
    assert "size known once the first step is stored" in replay.describe()
    for row in range(80):
        rows = source.rows()
        assert replay.wants_state() == (row % 3 == 0)
        replay.add(rows, source.state if row % 3 == 0 else None)
    assert f"{ROW_BYTES} B a step, when full 1.7 KiB in memory, 192 B of recurrent" in replay.describe()
    batch = replay.sample()
    starts = {int(row) for row in batch["window"][:, 1]}
    assert starts <= set(range(51, 75, 3)) and len(starts) == 8
    replay.refresh(batch["window"], {"memory": np.full((100, 2), -1, np.float32)})
    again = replay.sample()
    trained = again["window"][:, 1] >= min(starts) + 6
    assert (again["state/memory"][trained] == -1).all()
    np.testing.assert_array_equal(again["state/memory"][~trained], again["obs/id"][~trained, 0])
    assert trained.any() and not trained.all()


def test_a_state_that_belongs_to_a_row_is_asked_for() -> None:
    """It is an error to leave it out, and nothing is stored; a window has to end where one is kept."""
    replay, source = Replay(60, 2, 4, 6, seed=0, initial_state="stored", state_every=3), Streams(2, seed=1)
    with pytest.raises(ValueError, match="row 0 of the replay needs the recurrent state"):
        replay.add(source.rows())
    assert len(replay) == 0
    with pytest.raises(ValueError, match="state_every must divide batch_length 6, .* got 4"):
        Replay(60, 2, 4, 6, seed=0, initial_state="stored", state_every=4)


def test_loading_the_wrong_thing_says_so() -> None:
    """A state of other streams, or of something else, is refused with the reason."""
    replay, _ = filled(10)
    with pytest.raises(ValueError, match="has initial_state zero, this one stored"):
        Replay(60, 2, 4, 5, seed=0, initial_state="stored", state_every=5).load_state_dict(
            replay.state_dict()
        )
    with pytest.raises(ValueError, match="has streams 2, this one 3"):
        Replay(60, 3, 4, 5, seed=0).load_state_dict(replay.state_dict())
    with pytest.raises(ValueError, match=r"lacks .*'samples'"):
        Replay(60, 2, 4, 5, seed=0).load_state_dict({"streams": 2})
    with pytest.raises(RuntimeError, match="into a new replay only"):
        replay.load_state_dict(replay.state_dict())


def test_impossible_sizes_are_refused() -> None:
    """Sizes that can never serve a batch are refused before anything is stored."""
    with pytest.raises(ValueError, match="capacity of at least 1040"):
        Replay(1000, 16, 8, 64, seed=0)


def test_the_same_seed_gives_the_same_batches() -> None:
    """Batches depend on seed, count and rows; another seed gives others."""
    one, two, other = (filled(30, seed=seed)[0] for seed in (5, 5, 6))
    batches = [[replay.sample()["obs/id"] for _ in range(5)] for replay in (one, two, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*batches[:2], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batches[0], batches[2], strict=True))
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(batches[0], 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [10, 300, None])
def test_a_resume_changes_no_bit(tmp_path: Path, mode: str, chunk: int | None) -> None:
    """Batches and contents of a replay that was saved and loaded are those of one that was not.

    Also where a chunk is longer than what counts, so that all rows are in checkpoints, and without a folder.
    """
    sizes, source = ON_DISK | MODES[mode], Streams(2, seed=3)
    if chunk:
        sizes |= {"chunk": chunk, "memory_gb": ON_DISK["memory_gb"] * chunk / ON_DISK["chunk"]}

    def opened(name: str) -> Replay:
        return Replay(**sizes, folder=tmp_path / name if chunk else None)

    both = [opened("one")]
    for row in range(220):
        if row in (3, 40, 100, 101, 102, 150):
            state, chunks = through_a_file(both[0]), both[0].chunks()
            if row > 3:
                both.pop().close()
            (tmp_path / f"two{row}").mkdir()
            for name in chunks:
                (tmp_path / f"two{row}" / name).write_bytes((tmp_path / "one" / name).read_bytes())
            both.append(opened(f"two{row}"))
            assert both[1].load_state_dict(state, chunks) == []
        rows = source.rows()
        for replay in both:
            replay.add(rows, source.state if replay.wants_state() else None)
        if row % 3 or not both[0].ready():
            continue
        batch, *others = [replay.next() for replay in both]
        for other in others:
            assert_same(batch, other)
        for replay in both:
            if "window" in batch:
                replay.refresh(batch["window"], {"memory": batch["obs/id"][:, -1] + np.array([0, 1])}, row)
    assert_same(both[0].state_dict(), both[1].state_dict())


def assert_same(ours: Mapping[str, np.ndarray | int], theirs: Mapping[str, np.ndarray | int]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_batches_are_prepared_in_the_background() -> None:
    """What `prepare` makes of the rows is what comes; its error comes too, before the batch is due."""
    threads = []

    def prepare(rows: Rows) -> Rows:
        threads.append(threading.current_thread())
        if len(threads) == 2:
            raise ArithmeticError("the second batch")
        return {"reward": rows["reward"] * 2}

    replay, source = Replay(**ON_DISK, prepare=prepare), Streams(2, seed=3)
    for _ in range(20):
        replay.add(source.rows())
    assert replay.next().keys() == {"reward"}
    with pytest.raises(ArithmeticError, match="the second batch"):
        while True:
            replay.add(source.rows())
    with pytest.raises(ArithmeticError, match="the second batch"):
        replay.next()
    assert threading.current_thread() not in threads


def test_windows_that_were_evicted_are_chosen_anew() -> None:
    """However many rows come between two batches, the batch is of rows that count."""
    replay, source = Replay(**ON_DISK, initial_state="stored", state_every=3), Streams(2, seed=3)
    for row in range(400):
        replay.add(source.rows(), source.state if replay.wants_state() else None)
        if row % 190 == 100:
            check_batch(replay.next(), source, max(0, row + 1 - 80))
