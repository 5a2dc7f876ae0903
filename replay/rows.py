"""What a row holds, and the checks of rows; errors say where, what was expected and what was given.

A row is one moment of N environments: what they showed and what was then done.

    obs/<name>   [N,...] uint8 or float32   an observation
    action       [N,...] int64 or float32   the action TAKEN at this row, zero in an episode's last one
    reward       [N] float32                what arrived with the observation
    is_first, is_last, is_terminal   [N] bool   a time limit is last without being terminal
"""

from collections.abc import Mapping

import numpy as np

Rows = dict[str, np.ndarray]

FLAGS = ("is_first", "is_last", "is_terminal")
TYPES = {"action": ("int64", "float32"), "reward": ("float32",)} | dict.fromkeys(FLAGS, ("bool",))
OBSERVATION_TYPES = ("uint8", "float32")  # of each obs/<name>


def check(rows: Mapping[str, np.ndarray], count: int, where: str, extra: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless keys, types and leading axis are those of `count` rows.

    `extra`: beginnings of further keys that are allowed, of any type.
    """
    missing = [key for key in TYPES if key not in rows]
    if not any(key.startswith("obs/") for key in rows):
        missing.append("obs/<name>")
    unknown = [key for key in rows if key not in TYPES and not key.startswith(("obs/", *extra))]
    if missing or unknown:
        raise ValueError(
            f"{where} must hold {', '.join(['obs/<name>', *TYPES])}; missing: {missing or 'nothing'}, "
            f"unknown: {unknown or 'nothing'}."
        )
    for key, value in rows.items():
        allowed = TYPES.get(key, OBSERVATION_TYPES)
        if not key.startswith(extra) and str(value.dtype) not in allowed:
            raise ValueError(
                f"{where}: '{key}' must be {' or '.join(allowed)}, got {value.dtype}; convert it where the "
                "row is made."
            )
        expected = (count,) if key in ("reward", *FLAGS) else (count, *value.shape[1:])
        if value.shape != expected:
            raise ValueError(f"{where}: '{key}' must have shape {expected}, got {value.shape}.")


def check_alike(rows: Mapping[str, np.ndarray], number: int, rings: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless keys, types and shapes of row `number` are those of the rows in the rings.

    `rings`: key -> [streams, length, ...].
    """
    expected = {key: (ring.dtype, (len(ring), *ring.shape[2:])) for key, ring in rings.items()}
    given = {key: (value.dtype, value.shape) for key, value in rows.items()}
    if given != expected:
        key = next(key for key in {**expected, **given} if given.get(key) != expected.get(key))
        was, now = ("{} {}".format(*of[key]) if key in of else "missing" for of in (expected, given))
        raise ValueError(f"row {number} of the replay: '{key}' is {now}, but {was} since the first row.")


def check_continuing(rows: Mapping[str, np.ndarray], number: int, ended: np.ndarray, resumed: bool) -> None:
    """Raise ValueError unless row `number` has finite rewards and continues the episodes of its streams.

    A terminal row has to be the last of its episode.

    Arguments:
        ended: [N] bool, whether the stream's previous row was its episode's last, or there is none.
        resumed: whether the previous rows were loaded.
    """
    infinite = np.flatnonzero(~np.isfinite(rows["reward"]))
    if infinite.size:
        raise ValueError(
            f"the reward of environment {infinite[0]} at row {number} is {rows['reward'][infinite[0]]}; "
            f"rewards must be finite. Find out what the environment returned at this step."
        )
    stray = np.flatnonzero(rows["is_terminal"] & ~rows["is_last"])
    if stray.size:
        raise ValueError(
            f"environment {stray[0]} is terminal at row {number} without being last; every terminal row ends "
            "its episode (is_last)."
        )
    seam = np.flatnonzero(rows["is_first"] != ended)
    if seam.size:
        if not ended[seam[0]]:
            cause = "is_first is True, but the row before did not end its episode (is_last)"
        elif resumed:
            cause = "is_first must be True: the replay was just loaded, so the environments start anew"
        else:
            cause = "is_first must be True: no episode is open"
        raise ValueError(f"environment {seam[0]} at row {number}: {cause}.")
