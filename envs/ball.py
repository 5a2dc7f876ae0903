"""Memory Maze's rolling ball, which the rooms have too: its actions, and how scripts steer it to a cell."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

STAY, FORWARD, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(6)
TURN = math.radians(73.6) / 4  # of a step, as it was measured in Memory Maze

Cell = tuple[int, int]
"""Row and column."""


def paths(free: np.ndarray, start: Cell) -> dict[Cell, list[Cell]]:
    """The shortest path from a cell to every one that can be reached: the cells after the first.

    Args:
        free: `[rows, columns]`, where one can walk.
        start: where paths begin.
    """
    found: dict[Cell, list[Cell]] = {start: []}
    waiting = deque([start])
    while waiting:
        row, column = waiting.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= cell[0] < free.shape[0] and 0 <= cell[1] < free.shape[1]
            if inside and free[cell] and cell not in found:
                found[cell] = [*found[row, column], cell]
                waiting.append(cell)
    return found


def steer(dx: float, dy: float, heading: float) -> int:
    """The action that leads towards what is (dx, dy) away, with a heading in radians."""
    error = math.remainder(math.atan2(dy, dx) - heading, math.tau)
    if abs(error) <= TURN / 2:
        return FORWARD
    if abs(error) <= 2 * TURN:
        return FORWARD_LEFT if error > 0 else FORWARD_RIGHT
    return LEFT if error > 0 else RIGHT
