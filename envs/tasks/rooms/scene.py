"""A world of rooms: its plan, and what an episode samples. Lengths in metres, as in Memory Maze.

x points east, y north, and a cell `[row, column]` of the plan has its south-west corner at (2 column, 2 row).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CELL = 2.0
WALL_HEIGHT = 1.5
EYE = 0.3  # height of the camera
FIELD_OF_VIEW = 80.0  # degrees, both ways
SPHERE = 0.6  # radius of an object, whose centre is at the height of the floor
SIDE = 5  # cells of a room, each way

# The coloured walls of labmaze's style_01, with their mean colours, and the objects of Memory Maze.
WALLS: dict[str, tuple[int, int, int]] = {
    "blue": (32, 116, 177),
    "cerise": (169, 65, 103),
    "green_bright": (166, 197, 156),
    "green": (85, 120, 75),
    "purple": (68, 80, 176),
    "red_bright": (213, 123, 104),
    "red": (143, 32, 26),
    "yellow": (196, 169, 38),
}
OBJECTS: dict[str, tuple[int, int, int]] = {
    "red": (170, 38, 30),
    "green": (99, 170, 88),
    "blue": (39, 140, 217),
    "purple": (93, 105, 199),
    "yellow": (220, 193, 59),
    "salmon": (220, 128, 107),
}
LAYOUTS: dict[int, tuple[int, int]] = {2: (1, 2), 4: (2, 2), 10: (2, 5)}  # rows and columns of rooms


class Face(NamedTuple):
    """A visible piece of wall: x (or y) = `at`, from `low` to `high` of the other one, seen from `room`."""

    along_y: bool  # x is constant
    at: float
    low: float
    high: float
    room: int
    towards: int  # +1 if the wall faces growing coordinates, else -1


class Plan:
    """Rooms of 5 x 5 cells side by side, joined by a doorway of one cell in the middle of each shared wall.

    Attributes:
        room: int `[rows, columns]`, the room that a cell belongs to, -1 for walls. A doorway belongs to the
            room west or south of it.
        centres: the middle cell (row, column) of every room.
        faces: every wall that can be seen.

    Args:
        count: rooms, one of `LAYOUTS`.
    """

    def __init__(self, count: int) -> None:
        rows, columns = LAYOUTS[count]
        pitch = SIDE + 1
        self.room = np.full((pitch * rows + 1, pitch * columns + 1), -1)
        self.centres: list[tuple[int, int]] = []
        for number in range(count):
            row, column = (pitch * part + 1 for part in divmod(number, columns))
            self.room[row : row + SIDE, column : column + SIDE] = number
            middle = (row + SIDE // 2, column + SIDE // 2)
            self.centres.append(middle)
            if column + pitch < self.room.shape[1]:
                self.room[middle[0], column + SIDE] = number
            if row + pitch < self.room.shape[0]:
                self.room[row + SIDE, middle[1]] = number
        self.faces = self._faces()

    def _faces(self) -> list[Face]:
        """Find the sides of free cells that are walls, and join what lies in one line."""
        starts: dict[tuple[bool, int, int, int], list[int]] = defaultdict(list)
        for row, column in np.argwhere(self.room >= 0).tolist():
            room = int(self.room[row, column])
            for side in (0, 1):  # west and east, south and north
                towards = 1 - 2 * side
                if self.room[row, column - towards] < 0:
                    starts[True, column + side, room, towards].append(row)
                if self.room[row - towards, column] < 0:
                    starts[False, row + side, room, towards].append(column)
        faces = []
        for (along_y, at, room, towards), cells in starts.items():
            ordered = np.sort(cells)
            for run in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1):
                low, high = CELL * float(run[0]), CELL * float(run[-1] + 1)
                faces.append(Face(along_y, CELL * at, low, high, room, towards))
        return faces


@dataclass(frozen=True)
class Scene:
    """What an episode samples for a plan.

    `walls` int `[rooms]`: the colour of each room's walls, an index into `WALLS`. `places` float `[n, 2]`: x
    and y of the objects; `colours` int `[n]`: indices into `OBJECTS`.
    """

    walls: np.ndarray
    places: np.ndarray
    colours: np.ndarray


def sample(plan: Plan, objects: int, random: np.random.Generator) -> Scene:
    """Sample colours and places, each independently and uniformly.

    Objects stand in the middle of different cells, out of the way from doorway to doorway (a room's middle
    row and column), `objects` of them in each room.
    """
    spots = [(r, c) for r in range(SIDE) for c in range(SIDE) if SIDE // 2 not in (r, c)]
    places = []
    for row, column in plan.centres:
        for number in random.choice(len(spots), objects, replace=False):
            r, c = spots[number]
            places.append((column - SIDE // 2 + c + 0.5, row - SIDE // 2 + r + 0.5))
    return Scene(
        random.integers(len(WALLS), size=len(plan.centres)),
        CELL * np.array(places),
        random.integers(len(OBJECTS), size=len(places)),
    )
