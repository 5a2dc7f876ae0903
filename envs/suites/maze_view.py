"""The agent's view of a labmaze: what makes it fast without changing a pixel.

Walls and floors are planes, hundreds of them, and most of the time goes into planes that are out of sight;
loading a new maze spends most of its time on textures, which are the same in every maze.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np

from envs.suites import gl

NEEDS = ("'memory_maze:...'", "memory3d", "memory_maze dm_control mujoco labmaze")
SEAM = 0.003  # a tenth of a pixel, in radians
SHOWN, HIDDEN = 0, 5  # groups of geoms that MuJoCo draws and does not draw
_CORNERS = np.array([[-1, -1, 0], [-1, 1, 0], [1, -1, 0], [1, 1, 0]])


class MazeView:
    """Draws mazes that use the same textures, one maze after the other.

    The textures are uploaded to GL once, by a context that is kept; contexts of mazes, each made from a model
    whose textures are single points, borrow them.

    Args:
        size: height and width of the picture.
        fast: draw without multisampling.
    """

    def __init__(self, size: int, fast: bool) -> None:
        self._fast = fast
        self._canvas = gl.Canvas(size, NEEDS)
        self._library: Any = None  # the context with the textures
        self._numbers: dict[str, int] = {}  # file -> number of its texture in GL
        self._context: Any = None  # the maze's

    def hollow(self, xml: str, files: dict[str, bytes]) -> str:
        """Return a model with single points in place of the textures from files, and keep those textures.

        Args:
            xml: the model.
            files: name -> contents. Every maze has the textures of the first one.
        """
        root = ElementTree.fromstring(xml)
        textures = [texture for texture in root.iter("texture") if "file" in texture.attrib]
        self._files = {texture.attrib["name"]: texture.attrib["file"] for texture in textures}
        if self._library is None:
            self._keep({texture.attrib["file"]: dict(texture.attrib) for texture in textures}, files)
        for texture in textures:
            for key in texture.attrib.keys() - {"name", "type"}:
                del texture.attrib[key]
            texture.attrib.update(builtin="flat", width="1", height="1")
        return ElementTree.tostring(root, encoding="unicode")

    def _keep(self, textures: dict[str, dict[str, str]], files: dict[str, bytes]) -> None:
        root = ElementTree.Element("mujoco")
        assets = ElementTree.SubElement(root, "asset")
        for file, attributes in textures.items():
            attributes.pop("class", None)  # the classes of these say nothing
            ElementTree.SubElement(assets, "texture", attributes | {"name": file})
        model = self._canvas.model(ElementTree.tostring(root, encoding="unicode"), files)
        self._library = self._canvas.upload(model)
        numbers = self._library.ptr.texture
        self._numbers = {file: int(numbers[model.ptr.texture(file).id]) for file in textures}

    def load(self, physics: Any, camera: str) -> None:
        """Switch to a maze, compiled from what `hollow` returned last, with its positions up to date.

        Args:
            physics: dm-control's.
            camera: name of the agent's camera.
        """
        self._free_maze()
        model, data = physics.model.ptr, physics.data.ptr
        model.vis.quality.shadowsize = 0  # there are no lights to cast any
        if self._fast:
            model.vis.quality.offsamples = 0
        self._context = self._canvas.upload(physics.model)
        borrowed = self._context.ptr.texture
        self._own = borrowed.copy()
        for name, file in self._files.items():
            borrowed[model.texture(name).id] = self._numbers[file]
        self._data, number = data, model.camera(camera).id
        self._canvas.look(physics.model, number)
        self._culling = Culling(model, data, number)

    def picture(self) -> np.ndarray:
        """Return what the agent sees now, uint8 `[size, size, 3]`."""
        self._culling.hide()
        return self._canvas.picture(self._data, self._context)

    def _free_maze(self) -> None:
        if self._context is not None:
            self._context.ptr.texture[:] = self._own  # freeing it must not free what it borrowed
            self._context.free()
            self._context = None

    def close(self) -> None:
        """Free what GL holds."""
        self._free_maze()
        if self._library is not None:
            self._library.free()
            self._library = None


class Culling:
    """Hides the planes of a maze that cannot be seen, which changes no pixel: they are not drawn.

    It considers planes without contacts that never move: labmaze's floors, and the sides and tops of its
    walls, which are all of one height. A plane is hidden if it lies outside the field of view, or if a single
    wall covers it with `SEAM` to spare. (Not if two walls cover it together: through the seam between them
    pixels of what is behind can be seen.)

    Args:
        model, data: MuJoCo's own, the positions up to date.
        camera: number of a camera whose picture is square.
    """

    def __init__(self, model: Any, data: Any, camera: int) -> None:
        self._eye, self._axes = data.cam_xpos[camera], data.cam_xmat[camera]  # views of what moves
        slope = np.tan(np.deg2rad(model.cam_fovy[camera] / 2))
        # Outward normals of the field of view, as columns, in the camera's axes: right, up, back.
        sides = [[1, 0, slope], [-1, 0, slope], [0, 1, slope], [0, -1, slope], [0, 0, 1]]
        self._sides = np.array(sides, float).T
        plane = 0  # mjGEOM_PLANE
        self._planes = np.flatnonzero(
            (model.geom_type == plane) & (model.geom_contype == 0) & (model.geom_bodyid == 0)
        )
        axes = data.geom_xmat[self._planes].reshape(-1, 3, 3)
        middles = data.geom_xpos[self._planes]
        offsets = _CORNERS * model.geom_size[self._planes, None]  # [planes, 4, 3]
        self._corners = middles[:, None] + offsets @ axes.swapaxes(1, 2)
        self._fronts = axes[:, :, 2]  # [planes, 3], the side they are seen from
        self._levels = (middles * self._fronts).sum(1)
        self._upright = np.abs(self._fronts[:, 2]) < 0.5
        # The left and right ends (seen from the front) of upright planes, in x and y: [planes, 2, 2].
        ends = self._corners[:, [0, 2], :2]
        way, fronts = ends[:, 1] - ends[:, 0], self._fronts
        leftwards = way[:, 0] * fronts[:, 1] > way[:, 1] * fronts[:, 0]
        self._ends = np.where(leftwards[:, None, None], ends[:, ::-1], ends)
        self._groups = model.geom_group

    def hide(self) -> np.ndarray:
        """Hide what cannot be seen from where the camera is now; return the numbers of the planes shown."""
        normals = self._axes.reshape(3, 3) @ self._sides
        seen = np.flatnonzero(~(self._corners @ normals > self._eye @ normals).all(1).any(1))
        away = self._fronts[seen] @ self._eye - self._levels[seen]
        walls = self._upright[seen] & (away > 0)
        shown = seen[~self._covered(seen, seen[walls], away[walls])]
        self._groups[self._planes] = HIDDEN
        self._groups[self._planes[shown]] = SHOWN
        return shown

    def _covered(self, planes: np.ndarray, walls: np.ndarray, away: np.ndarray) -> np.ndarray:
        """Find the planes that a single wall covers, `[planes]`; `away` is the eye's distance from each wall.

        Seen from above: all corners of the plane lie within the angle that the wall fills, and farther away.
        In the picture, what is farther away then also has its top lower and its foot higher.
        """
        rays = self._corners[planes, :, :2].reshape(-1, 2) - self._eye[:2]  # [planes x 4, 2]
        inverse = 1 / np.sqrt((rays**2).sum(1))  # of the distance
        rays = (rays * inverse[:, None]).T
        ends = self._ends[walls] - self._eye[:2]
        ends /= np.sqrt((ends**2).sum(2, keepdims=True))
        (left_x, left_y), (right_x, right_y) = ends[:, 0].T, ends[:, 1].T
        within = (np.stack([left_y, -left_x], 1) @ rays > SEAM) & (
            np.stack([-right_y, right_x], 1) @ rays > SEAM
        )
        # 1 / distance of the wall along each ray against that of the corner
        farther = (-self._fronts[walls, :2] / away[:, None]) @ rays > inverse + SEAM / self._eye[2]
        return (within & farther).reshape(len(walls), -1, 4).all(2).any(0)
