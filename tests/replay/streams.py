"""Made-up streams of rows that carry their own identity, and what every sampled batch has to be."""

import io
from typing import Any

import numpy as np

from replay import Replay

MODES: dict[str, dict[str, Any]] = {
    "zero": {"initial_state": "zero"},
    "stored": {"initial_state": "stored", "state_every": 3},
    "burn_in": {"initial_state": "burn_in", "state_every": 4, "burn_in": 6, "max_age": 50},
    "consecutive": {"initial_state": "stored", "state_every": 2, "online": False, "consecutive": True},
}
"""Options for each way to start a window, with a batch_length of 6."""

ROW_BYTES = 2 * 4 + 3 * 2 * 1 + 8 + 4 + 3  # of a row of `Streams`


class Streams:
    """Random episodes whose every row carries its own identity, and a record of all rows ever produced."""

    def __init__(self, streams: int, seed: int, mean_episode: float = 6.0) -> None:
        self.streams, self.mean = streams, mean_episode
        self.rng = np.random.default_rng(seed)
        self.record: list[dict[str, np.ndarray]] = []
        self.opening = np.ones(streams, bool)

    def rows(self) -> dict[str, np.ndarray]:
        """Return the next row of every stream and remember it; `obs/id` is (stream, number of the row)."""
        n, number = self.streams, len(self.record)
        first = self.opening.copy()
        last = (self.rng.random(n) < 1 / self.mean) & ~first
        rows = {
            "obs/id": np.stack([np.arange(n), np.full(n, number)], 1).astype(np.float32),
            "obs/image": self.rng.integers(0, 256, (n, 3, 2, 1), np.uint8),
            "action": np.where(last, 0, self.rng.integers(1, 1000, n)),
            "reward": self.rng.normal(size=n).astype(np.float32) * ~first,
            "is_first": first,
            "is_last": last,
            "is_terminal": last & (self.rng.random(n) < 0.5),
        }
        self.opening = last
        self.record.append(rows)
        self.state = {"memory": rows["obs/id"].copy()}  # the state before a row says which row that is
        return {key: value.copy() for key, value in rows.items()}

    def restart(self) -> None:
        """Close the open episodes as `close_episodes` does: last, not terminal, no action taken."""
        newest = self.record[-1]
        newest["action"] = np.where(newest["is_last"], newest["action"], 0)
        newest["is_last"] = np.ones(self.streams, bool)
        self.opening = np.ones(self.streams, bool)


def check_batch(batch: dict[str, np.ndarray], source: Streams, oldest: int) -> None:
    """Assert that every window [T] of the batch [B,T] is a run of recorded rows of one stream."""
    stream, number = batch["obs/id"][..., 0].astype(int), batch["obs/id"][..., 1].astype(int)
    assert (stream == stream[:, :1]).all(), "a window crosses streams"
    assert (np.diff(number, axis=1) == 1).all(), "a window skips or repeats rows"
    assert number.min() >= oldest and number.max() < len(source.record), "a row that is not stored any more"
    record = {key: np.stack([row[key] for row in source.record]) for key in source.record[0]}
    for key in record.keys() - {"action"}:
        np.testing.assert_array_equal(batch[key], record[key][number, stream], err_msg=key)
    first = batch["is_first"]
    assert (first | (number > oldest)).all(), "the incoming action of a row was evicted"
    taken = record["action"][number - 1, stream]
    np.testing.assert_array_equal(batch["action"], np.where(first, 0, taken))
    ended, opened = batch["is_last"][:, :-1], batch["is_first"][:, 1:]
    np.testing.assert_array_equal(ended, opened)
    if "window" in batch:
        np.testing.assert_array_equal(batch["state/memory"], batch["obs/id"][:, 0])


def through_a_file(replay: Replay) -> dict[str, np.ndarray]:
    """Return the replay's state after a way through an .npz file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **replay.state_dict())
    file.seek(0)
    return dict(np.load(file, allow_pickle=False))
