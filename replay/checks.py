"""Checks of rows before replay takes them; errors say where, what was expected and what was given."""

from collections.abc import Mapping

import numpy as np

from replay.chunk import FLAGS, REQUIRED

Rows = Mapping[str, np.ndarray]


def first_rows(rows: Rows, streams: int) -> None:
    """Raise ValueError unless the first rows are valid; they determine keys, shapes and dtypes."""
    missing = [key for key in REQUIRED if key not in rows]
    if not any(key.startswith("obs/") for key in rows):
        missing.append("obs/<name>")
    unknown = [key for key in rows if key not in REQUIRED and not key.startswith("obs/")]
    if missing or unknown:
        raise ValueError(
            f"a replay row holds obs/<name>, {', '.join(REQUIRED)}; missing: {missing or 'nothing'}, "
            f"unknown: {unknown or 'nothing'}."
        )
    for key, value in rows.items():
        allowed = _allowed(key)
        if value.dtype not in allowed:
            raise ValueError(
                f"replay key '{key}' must be {' or '.join(map(str, allowed))}, got {value.dtype}; "
                f"convert it where the row is made."
            )
        expected = (streams,) if key in ("reward", *FLAGS) else (streams, *value.shape[1:])
        if value.shape != expected:
            raise ValueError(
                f"replay key '{key}' must have shape {expected} (one entry for each stream), got "
                f"{value.shape}."
            )


def like_the_first(rows: Rows, number: int, rings: Rows) -> None:
    """Raise ValueError unless keys, shapes and types of row `number` are those of the first rows.

    `rings`: key -> [streams, length, ...].
    """
    if rows.keys() != rings.keys():
        raise ValueError(
            f"row {number} of the replay has other keys than the first one; missing: "
            f"{sorted(rings.keys() - rows.keys()) or 'nothing'}, unknown: "
            f"{sorted(rows.keys() - rings.keys()) or 'nothing'}."
        )
    for key, ring in rings.items():
        value, expected = rows[key], (len(ring), *ring.shape[2:])
        if value.shape != expected or value.dtype != ring.dtype:
            raise ValueError(
                f"replay key '{key}' is {ring.dtype} {expected} since the first row, but row "
                f"{number} brings {value.dtype} {value.shape}."
            )


def continuing(rows: Rows, number: int, ended: np.ndarray, resumed: bool) -> None:
    """Raise ValueError unless row `number` has finite rewards and continues the episodes of its streams.

    A terminal row has to be the last of its episode.

    Arguments:
        ended: [N] bool, whether the stream's previous row was its episode's last, or there is none.
        resumed: whether the previous rows were loaded.
    """
    finite = np.isfinite(rows["reward"])
    if not finite.all():
        stream = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"the reward of environment {stream} at row {number} is {rows['reward'][stream]}; "
            f"rewards must be finite. Find out what the environment returned at this step."
        )
    stray = rows["is_terminal"] & ~rows["is_last"]
    if stray.any():
        raise ValueError(
            f"environment {int(np.flatnonzero(stray)[0])} is terminal at row {number} without being "
            f"last; every terminal row ends its episode (is_last)."
        )
    seam = rows["is_first"] != ended
    if seam.any():
        stream = int(np.flatnonzero(seam)[0])
        if not ended[stream]:
            cause = "is_first is True, but the row before did not end its episode (is_last)"
        elif resumed:
            cause = "is_first must be True: the replay was just loaded, so the environments start anew"
        else:
            cause = "is_first must be True: no episode is open"
        raise ValueError(f"environment {stream} at row {number}: {cause}.")


def _allowed(key: str) -> tuple[np.dtype, ...]:
    """Return the dtypes a row key may have."""
    if key in FLAGS:
        return (np.dtype(bool),)
    if key == "reward":
        return (np.dtype(np.float32),)
    return (np.dtype(np.int64 if key == "action" else np.uint8), np.dtype(np.float32))
