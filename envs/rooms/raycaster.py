"""A picture of the rooms with NumPy alone: one ray a column for the walls, one a pixel for the objects.

Walls are flat colours with a pattern of bricks, floors a chessboard: enough to tell where one is, at
thousands of pictures a second.
"""

from __future__ import annotations

import math

import numpy as np

from envs.rooms.scene import EYE, FIELD_OF_VIEW, OBJECTS, SPHERE, WALL_HEIGHT, WALLS, Plan, Scene

SKY, FLOOR = 0, 1  # numbers of the palette; the floor has two
_WALL = 3  # four a colour: facing along x or y, mortar or brick
_OBJECT = _WALL + 4 * len(WALLS)  # LEVELS a colour, from below to above
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
        steps = math.tan(math.radians(FIELD_OF_VIEW / 2)) * ((np.arange(size) + 0.5) * 2 / size - 1)
        self._across, self._up = steps, -steps[:, None]
        self._norm = 1 + self._up**2 + self._across**2  # squared length of a pixel's ray
        self._floor_rows = np.flatnonzero(self._up[:, 0] < 0)
        self._floor_depth = -EYE / self._up[self._floor_rows]  # [rows, 1]
        self._faces = [
            (
                np.array([[face.at] for face in plan.faces if face.along_y == along_y]),
                np.array([[face.low - _SEAM] for face in plan.faces if face.along_y == along_y]),
                np.array([[face.high + _SEAM] for face in plan.faces if face.along_y == along_y]),
            )
            for along_y in (True, False)
        ]
        self._rooms = np.array(
            [face.room for along_y in (True, False) for face in plan.faces if face.along_y == along_y]
        )
        self._upright = len(self._faces[0][0])  # faces with constant x come first
        self._columns = np.arange(size)

    def load(self, scene: Scene) -> None:
        """Take up the colours and objects of an episode."""
        numbers = 4 * scene.walls[self._rooms] + 2 * (np.arange(len(self._rooms)) >= self._upright)
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
        height = EYE + self._up * depth  # [size, size], where a pixel's ray meets the plane of the wall
        brick = ((along + (height * 2).astype(np.int8)) & 1).astype(np.uint8)
        picture = np.where(height > WALL_HEIGHT, np.uint8(SKY), self._face_number[face] + brick)
        rows = self._floor_rows
        floor_x, floor_y = x + self._floor_depth * ray_x, y + self._floor_depth * ray_y
        tiles = ((floor_x.astype(np.int32) + floor_y.astype(np.int32)) & 1).astype(np.uint8)
        floor = picture[rows[0] :]
        np.copyto(floor, tiles + np.uint8(FLOOR), where=height[rows[0] :] < 0)
        for place_x, place_y, number in self._objects:
            self._draw_object(picture, depth, place_x - x, place_y - y, ahead_x, ahead_y, number)
        return self._palette.take(picture, axis=0)

    def close(self) -> None:
        """There is nothing to free."""

    def _walls(
        self, x: float, y: float, ray_x: np.ndarray, ray_y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for every column the depth of the nearest wall, its face, and the brick along it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            hits = []
            for (at, low, high), start, ray, other, other_ray in (
                (self._faces[0], x, ray_x, y, ray_y),
                (self._faces[1], y, ray_y, x, ray_x),
            ):
                distance = (at - start) / ray  # [faces, columns]
                meets = other + distance * other_ray
                hits.append(np.where((distance > 0) & (meets >= low) & (meets <= high), distance, np.inf))
        distances = np.concatenate(hits)
        face = distances.argmin(0)
        depth = distances[face, self._columns]
        along = np.where(face < self._upright, y + depth * ray_y, x + depth * ray_x).astype(np.int8)
        return depth, face, along

    def _draw_object(
        self,
        picture: np.ndarray,
        depth: np.ndarray,
        dx: float,
        dy: float,
        ahead_x: float,
        ahead_y: float,
        number: int,
    ) -> None:
        """Draw the half of a sphere that is above the floor, where no wall is nearer."""
        forward, right = dx * ahead_x + dy * ahead_y, dx * ahead_y - dy * ahead_x
        if forward <= 0:
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
