import tracemalloc
import zipfile

import numpy as np
import pytest

from replay import Replay, chunk


def episode(length, tag=0):
    """Rows whose numbers say which episode and step they are."""
    steps = np.arange(length)
    return {
        "obs/image": np.broadcast_to(
            (10 * tag + steps)[:, None, None, None].astype(np.uint8), (length, 4, 4, 3)
        ).copy(),
        "obs/vector": np.stack([steps, np.full(length, tag)], 1).astype(np.float32),
        "action": np.where(steps == length - 1, 0, steps % 3).astype(np.int64),
        "reward": (steps > 0).astype(np.float32) * tag,
        "is_first": steps == 0,
        "is_last": steps == length - 1,
        "is_terminal": (steps == length - 1) & bool(tag % 2),
    }


def test_what_is_read_is_what_was_written(tmp_path):
    written = episode(7) | {"probe/where": np.arange(14).reshape(7, 2)}
    path = chunk.path_of(tmp_path, 12)
    chunk.write(path, written)
    assert path.name == "episode-00000012.npz"
    got = chunk.read(path)
    assert got.keys() == written.keys()
    for key, array in written.items():
        assert got[key].dtype == array.dtype
        np.testing.assert_array_equal(got[key], array)
    assert chunk.read(path, ("reward",)).keys() == {"reward"}
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_episode_gives_the_same_bytes(tmp_path):
    for number in range(2):
        chunk.write(
            chunk.path_of(tmp_path, number), dict(reversed(episode(5).items())) if number else episode(5)
        )
    first, second = (path.read_bytes() for path in chunk.paths(tmp_path))
    assert first == second


def test_chunks_are_found_in_order(tmp_path):
    assert chunk.paths(tmp_path / "nowhere") == []
    for number in (3, 100_000_000, 20):
        chunk.write(chunk.path_of(tmp_path, number), episode(2))
    (tmp_path / "dataset.json").touch()
    (tmp_path / ".episode-00000004.npz.17").touch()
    assert [path.stem for path in chunk.paths(tmp_path)] == [
        "episode-00000003",
        "episode-00000020",
        "episode-100000000",
    ]


def test_a_chunk_never_changes(tmp_path):
    path = chunk.path_of(tmp_path, 0)
    chunk.write(path, episode(3))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="a chunk never changes"):
        chunk.write(path, episode(4))
    assert path.read_bytes() == before


@pytest.mark.faults("disk full")
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        chunk.write(chunk.path_of(tmp_path, 0), episode(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward": None}, r"missing: \['reward'\]"),
        ({"obs/image": None, "obs/vector": None}, r"missing: \['obs/<name>'\]"),
        ({"info": np.zeros(3)}, r"unknown: \['info'\]"),
        ({"reward": np.zeros(2, np.float32)}, r"'obs/image' must have shape \(2, 4, 4, 3\)"),
        ({"action": np.zeros(3, np.int32)}, "'action' must be int64 or float32, got int32"),
        ({"probe/x": np.zeros(2)}, r"'probe/x' must have shape \(3,\), got \(2,\)"),
        ({"is_first": np.array([True, True, False])}, r"is_first is set at rows \[0, 1\]"),
        ({"is_last": np.zeros(3, bool)}, r"is_last at rows \[\]"),
    ],
)
def test_what_is_not_an_episode_is_refused(tmp_path, change, said):
    rows = {key: array for key, array in (episode(3) | change).items() if array is not None}
    with pytest.raises(ValueError, match=said):
        chunk.write(chunk.path_of(tmp_path, 0), rows)
    assert list(tmp_path.iterdir()) == []


def test_single_rows_can_be_read_at_their_offsets(tmp_path):
    """Not in a compressed chunk, and that is said."""
    path = chunk.path_of(tmp_path, 0)
    chunk.write_rows(path, episode(7))
    content = path.read_bytes()
    for key, offset in chunk.offsets(path).items():
        np.testing.assert_array_equal(
            np.frombuffer(content, episode(7)[key].dtype, episode(7)[key].size, offset),
            episode(7)[key].ravel(),
        )
    chunk.write(chunk.path_of(tmp_path, 1), episode(7))
    with pytest.raises(ValueError, match="is compressed"):
        chunk.offsets(chunk.path_of(tmp_path, 1))


@pytest.mark.faults("chunk of the replay damaged or missing")
def test_damage_is_found(tmp_path):
    path = chunk.path_of(tmp_path, 0)
    chunk.write(path, episode(30))
    whole = path.read_bytes()
    middle = len(whole) // 3
    for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="episode-00000000.npz is damaged or not a chunk"):
            chunk.read(path)


def test_chunks_go_back_into_the_replay(tmp_path):
    lengths = [4, 6, 5, 5, 3, 4]
    for number, length in enumerate(lengths):
        chunk.write(chunk.path_of(tmp_path, number), episode(length, number) | {"probe/x": np.zeros(length)})
    replay = Replay(capacity=100, streams=2, batch_size=8, batch_length=6, seed=0, online=False)
    for row in chunk.rows(chunk.paths(tmp_path), 2):
        replay.add(row)
    # Stream 0 plays 0 (4 rows), 2 (5), 4 (3), stream 1 plays 1 (6), 3 (5), 5 (4): the end comes after 12.
    assert len(replay) == 2 * 12
    batch = replay.sample()
    assert batch.keys() == episode(3).keys()
    for window in range(8):
        step, tag = batch["obs/vector"][window].T.astype(int)
        assert set(np.diff(tag)) <= {0, 2}
        np.testing.assert_array_equal(batch["is_first"][window], step == 0)
        np.testing.assert_array_equal(batch["is_last"][window], step == np.array(lengths)[tag] - 1)
        led_in = np.where(step == 0, 0, (step - 1) % 3)
        np.testing.assert_array_equal(batch["action"][window], led_in)
        np.testing.assert_array_equal(batch["reward"][window], (step > 0) * tag)


def test_one_stream_gets_every_row(tmp_path):
    for number in range(3):
        chunk.write(chunk.path_of(tmp_path, number), episode(5, number))
    got = list(chunk.rows(chunk.paths(tmp_path), 1))
    assert [int(row["obs/vector"][0, 1]) for row in got] == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.faults("bomb in a file that is read")
@pytest.mark.parametrize("bomb", ["unpacks", "header", "header of objects", "deep header", "encrypted"])
def test_a_bomb_takes_no_memory(tmp_path, bomb):
    """A file of kilobytes that claims gigabytes is refused by name."""
    path = tmp_path / "episode-00000000.npz"
    shape, kind = "(1000000000000,)", "|O" if "objects" in bomb else "<f4"
    if bomb == "unpacks":
        np.savez_compressed(path, reward=np.zeros(25_000_000, np.float32))
    else:
        if bomb == "deep header":
            shape = "(" * 4000
        head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n"
        content = np.lib.format.magic(1, 0) + len(head).to_bytes(2, "little") + head.encode() + bytes(64)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("reward.npy", content)
    if bomb == "encrypted":
        changed = bytearray(path.read_bytes())
        changed[6] |= 1
        changed[changed.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(changed)
    tracemalloc.start()
    with pytest.raises(ValueError, match=str(path)):
        chunk.read_rows(path)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_an_episode_of_almost_nothing_can_be_read_again(tmp_path):
    """Black frames shrink to a thousandth, and what unpacks to so much is refused as damage."""
    written = episode(6000) | {"obs/image": np.zeros((6000, 64, 64, 3), np.uint8)}
    written["obs/image"][5] = 1
    chunk.write(tmp_path / "episode-00000000.npz", written)
    np.testing.assert_array_equal(
        chunk.read(tmp_path / "episode-00000000.npz")["obs/image"], written["obs/image"]
    )
