"""Replays that hold a block of the streams each, saved as one: what is saved does not say where it is held.

A state is what `Replay.state_dict` returns, beside entries `acting/...` of each stream; the n-th shard holds
the n-th block of streams, and gives the n-th block of a batch's rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BY_STREAM = ("rows/", "states/", "acting/", "made")
SHARDS = "shards"

State = dict[str, Any]


def join(states: Sequence[State]) -> State:
    """Return the state of one replay of all the streams, with the number of `shards`."""
    if len(states) == 1:
        return states[0]
    streams = int(states[0]["streams"])
    joined = dict(states[0], streams=streams * len(states), shards=len(states))
    # A shard may have lost its oldest chunks.
    joined["oldest"] = min(int(state["oldest"]) for state in states)
    for key in states[0]:
        parts = [np.asarray(state[key]) for state in states]
        if key.startswith(("states/", "made")):
            longest = max(part.shape[1] for part in parts)
            parts = [
                np.pad(part, [(0, 0), (longest - part.shape[1], 0), *[(0, 0)] * (part.ndim - 2)])
                for part in parts
            ]
        if key in ("queue", "cursor", "ahead"):
            parts = [_moved(part, number * streams) for number, part in enumerate(parts)]
        if key.startswith(BY_STREAM) or key in ("queue", "cursor", "ahead"):
            joined[key] = np.concatenate(parts)
    return joined


def split(state: Mapping[str, Any], number: int, shards: int) -> tuple[State, int]:
    """Return what the `number`-th of so many shards holds of a state, and how many it was saved from.

    With as many, sampling continues as it would have. With another number of them the batch that was chosen
    but not trained on comes again, first of all, and consecutive windows begin anew.
    """
    saved = int(state.get(SHARDS, 1))
    if saved == shards == 1:
        return dict(state), saved
    found = {key: np.asarray(value) for key, value in state.items() if key != SHARDS}
    streams = int(found["streams"]) // shards
    first = number * streams
    if saved != shards:
        # The oldest windows first, as one replay has them.
        queue = found["queue"][np.lexsort(found["queue"].T)]
        found["queue"] = np.concatenate([found["ahead"][:, :2], queue])
        found["ahead"], found["cursor"] = found["ahead"][:0], found["cursor"][:0]
    for key in ("ahead", "cursor"):
        rows = len(found[key]) // shards
        found[key] = _moved(found[key][number * rows :][:rows], -first)
    mine = found["queue"][:, 0] // streams == number
    found["queue"] = _moved(found["queue"][mine], -first)
    for key, value in found.items():
        if key.startswith(BY_STREAM):
            found[key] = value[first : first + streams]
    return found | {"streams": streams}, saved


def _moved(windows: np.ndarray, by: int) -> np.ndarray:
    """Return windows (stream, row, ...), their streams counted from elsewhere; a stream of -1 is none."""
    moved = windows.copy()
    moved[windows[:, 0] >= 0, 0] += by
    return moved
