"""Pictures of the rooms with NumPy alone: one ray per column for the walls, one per pixel for the objects.

Walls are flat colours with a pattern of bricks, floors a chessboard: enough to tell where one is, at
thousands of pictures per second.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from envs.tasks.rooms.scene import CELL, EYE, FIELD_OF_VIEW, OBJECTS, SPHERE, WALL_HEIGHT, WALLS, Plan, Scene

Vector = tuple[float, float]
FLOOR = 1  # numbers of the palette: 0 is the sky; the floor has two
_WALL = 3  # four per colour: facing along x or y, mortar or brick
_OBJECT = _WALL + 4 * len(WALLS)  # LEVELS per colour, from bottom to top
LEVELS = 4
_SEAM = 1e-6  # metres by which faces overlap, so that no ray slips through a corner


def palette() -> np.ndarray:
    """Return the colour of every number, uint8 `[n, 3]`."""
    sky_and_floors = ((70, 110, 160), (54, 89, 109), (46, 76, 93))
    colours: list[np.ndarray] = [np.array(rgb, float) for rgb in sky_and_floors]
    for rgb in WALLS.values():
        colours += [np.array(rgb) * light * brick for light in (0.8, 1.0) for brick in (0.85, 1.0)]
    for rgb in OBJECTS.values():
        colours += [np.array(rgb) * light for light in np.linspace(0.65, 1.0, LEVELS)]
    return np.stack(colours).round().astype(np.uint8)


class Raycaster:
    """Draws a scene from the eye of the agent.

    Args:
        plan: the walls.
        size: height and width of the picture.
    """

    def __init__(self, plan: Plan, size: int = 64) -> None:
        self._size = size
        self._palette = palette()
        # Pixel (i, j) looks along forward + across[j] right + up[i] upwards.
        self._slope = math.tan(math.radians(FIELD_OF_VIEW / 2))
        self._widest = math.hypot(1, self._slope)
        steps = self._slope * ((np.arange(size) + 0.5) * 2 / size - 1)
        self._across, self._up = steps, -steps[:, None]
        self._norm = 1 + self._up**2 + self._across**2  # squared length of a pixel's ray
        self._floor_rows = np.flatnonzero(self._up[:, 0] < 0)
        self._floor_depth = -EYE / self._up[self._floor_rows]  # [rows, 1]
        self._faces = sorted(plan.faces, key=lambda face: not face.along_y)  # constant x first
        self._rooms = np.array([face.room for face in self._faces])
        self._along_y = np.array([face.along_y for face in self._faces])
        self._facing = functools.cache(self._faces_towards)  # the same for all places in a cell
        self._columns = np.arange(size)

    def load(self, scene: Scene) -> None:
        """Load the colours and objects of an episode."""
        numbers = 4 * scene.walls[self._rooms] + 2 * ~self._along_y
        self._face_number = (_WALL + numbers).astype(np.uint8)
        self._objects = [
            (*place, _OBJECT + LEVELS * int(colour))
            for place, colour in zip(scene.places.tolist(), scene.colours, strict=True)
        ]

    def render(self, x: float, y: float, heading: float) -> np.ndarray:
        """Return the picture, uint8 `[size, size, 3]`, seen from (x, y) with a heading in radians."""
        ahead_x, ahead_y = math.cos(heading), math.sin(heading)
        ray_x, ray_y = ahead_x + ahead_y * self._across, ahead_y - ahead_x * self._across
        depth, face, along = self._walls(x, y, ray_x, ray_y)
        # [size, size], where a pixel's ray meets the plane of the wall, in heights of a brick: 0.5 m.
        height = 2 * self._up * depth
        height += 2 * EYE
        picture = ((along + height.astype(np.int8)) & 1).view(np.uint8)
        picture += self._face_number[face]
        # Choosing by multiplication is several times faster than by np.where or np.copyto.
        first = self._floor_rows[0]
        picture[:first] *= height[:first] <= 2 * WALL_HEIGHT  # else 0, which is the sky
        floor_x, floor_y = x + self._floor_depth * ray_x, y + self._floor_depth * ray_y
        tiles = ((floor_x.astype(np.int32) + floor_y.astype(np.int32)) & 1).astype(np.uint8)
        tiles += FLOOR
        tiles -= picture[first:]
        picture[first:] += tiles * (height[first:] < 0)
        for place_x, place_y, number in self._objects:
            self._draw_object(picture, depth, (place_x - x, place_y - y), (ahead_x, ahead_y), number)
        return self._palette.take(picture, axis=0)

    def close(self) -> None:
        """There is nothing to free."""

    def _faces_towards(self, column: int, row: int) -> tuple[int, np.ndarray, tuple[np.ndarray, ...]]:
        """Return what `_walls` needs of the faces that can look towards a cell: no others can be hit first.

        These are how many of them have constant x, their numbers, and `at`, `low`, `high`, each `[faces, 1]`.
        """
        ahead = [
            (face.towards > 0) == (CELL * (column if face.along_y else row) + CELL / 2 > face.at)
            for face in self._faces
        ]
        numbers = np.flatnonzero(ahead)
        bounds = [(face.at, face.low - _SEAM, face.high + _SEAM) for face in self._faces]
        at, low, high = np.array(bounds)[numbers].T[..., None].copy()
        return int(self._along_y[numbers].sum()), numbers, (at, low, high)

    def _walls(
        self, x: float, y: float, ray_x: np.ndarray, ray_y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for every column the depth of the nearest wall, its face, and the brick along it."""
        split, numbers, (at, low, high) = self._facing(int(x / CELL), int(y / CELL))
        distance = np.empty((len(numbers), self._size))
        meets = np.empty_like(distance)
        with np.errstate(divide="ignore", invalid="ignore"):
            for part, start, ray, other, other_ray in (
                (slice(split), x, ray_x, y, ray_y),
                (slice(split, None), y, ray_y, x, ray_x),
            ):
                np.divide(at[part] - start, ray, out=distance[part])
                np.multiply(distance[part], other_ray, out=meets[part])
                meets[part] += other
            distance = np.where((distance > 0) & (meets >= low) & (meets <= high), distance, np.inf)
        nearest = distance.argmin(0)
        depth = distance[nearest, self._columns]
        return depth, numbers[nearest], meets[nearest, self._columns].astype(np.int8)

    def _draw_object(
        self, picture: np.ndarray, depth: np.ndarray, offset: Vector, ahead: Vector, number: int
    ) -> None:
        """Draw the half of a sphere that is above the floor, where no wall is nearer."""
        (dx, dy), (ahead_x, ahead_y) = offset, ahead
        forward, right = dx * ahead_x + dy * ahead_y, dx * ahead_y - dy * ahead_x
        if forward <= 0 or abs(right) > self._slope * forward + self._widest * SPHERE:
            return
        # Columns whose rays come within a radius of the axis, seen from above.
        inside = (right - self._across * forward) ** 2 <= SPHERE**2 * (1 + self._across**2)
        columns = np.flatnonzero(inside & (depth > forward - SPHERE))
        if not len(columns):
            return
        part = slice(columns[0], columns[-1] + 1)
        across = self._across[part]
        along = forward + across * right - EYE * self._up  # ray times centre, the centre EYE below
        norm = self._norm[:, part]
        root = along**2 - norm * (dx * dx + dy * dy + EYE**2 - SPHERE**2)
        distance = (along - np.sqrt(np.maximum(root, 0))) / norm
        height = EYE + distance * self._up
        seen = (root > 0) & (height >= 0) & (distance > 0) & (distance < depth[part])
        level = np.minimum(height * (LEVELS / SPHERE), LEVELS - 1).astype(np.uint8)
        np.copyto(picture[:, part], level + np.uint8(number), where=seen)
