"""Pictures of the rooms by MuJoCo, with labmaze's textures: the look of Memory Maze, as in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from envs.suites import extras, gl
from envs.tasks.rooms.scene import EYE, FIELD_OF_VIEW, OBJECTS, SPHERE, WALL_HEIGHT, WALLS, Face, Plan, Scene

_NEEDS = ("'rooms:renderer=mujoco'", "memory3d", "dm_control mujoco labmaze")


class MujocoRenderer:
    """Draws a scene from the eye of the agent, without any physics.

    The model is compiled once: an episode moves spheres and changes colours and materials in place. `close()`
    frees the GL context; so does the end of the program.

    Args:
        plan: the walls.
        objects: number of objects in a scene, all rooms together.
        size: height and width of the picture.

    Raises:
        ImportError: a package is not installed, or nothing can draw here; the message says what to install.
    """

    def __init__(self, plan: Plan, objects: int, size: int = 64) -> None:
        gl.require("Task 'rooms:renderer=mujoco'")
        mujoco = extras.load("mujoco", *_NEEDS)
        assets = extras.load("labmaze.assets", *_NEEDS)
        walls, floor = assets.get_wall_texture_paths("style_01"), assets.get_floor_texture_paths("style_01")
        self._canvas = gl.Canvas(size, _NEEDS)
        model = self._canvas.model(_model(plan, objects, size, walls, floor["blue"]))
        self._context = self._canvas.upload(model)
        self._canvas.look(model, 0)
        self._model = model.ptr
        self._data = mujoco.MjData(self._model)
        self._kinematics = mujoco.mj_kinematics
        self._materials = np.array([self._model.material(name).id for name in WALLS])
        self._rooms = np.array([face.room for face in plan.faces])
        self._walls = np.array([self._model.geom(f"wall{n}").id for n in range(len(plan.faces))])
        self._spheres = np.array([self._model.geom(f"sphere{n}").id for n in range(objects)])
        self._colours = np.array(list(OBJECTS.values())) / 255

    def load(self, scene: Scene) -> None:
        """Load the colours and objects of an episode."""
        self._model.geom_matid[self._walls] = self._materials[scene.walls[self._rooms]]
        self._model.geom_pos[self._spheres, :2] = scene.places
        self._model.geom_rgba[self._spheres, :3] = self._colours[scene.colours]
        self._kinematics(self._model, self._data)

    def render(self, x: float, y: float, heading: float) -> np.ndarray:
        """Return the picture, uint8 `[size, size, 3]`, seen from (x, y) with a heading in radians."""
        cosine, sine = math.cos(heading), math.sin(heading)
        self._data.cam_xpos[0] = x, y, EYE
        self._data.cam_xmat[0] = sine, 0, -cosine, -cosine, 0, -sine, 0, 1, 0  # columns: right, up, back
        return self._canvas.picture(self._data, self._context)

    def close(self) -> None:
        """Free what GL holds."""
        self._context.free()


def _model(plan: Plan, objects: int, size: int, walls: Mapping[str, str], floor: str) -> str:
    """Return the MJCF of a plan: a plane for each face of a wall, spheres to be placed, a camera."""
    textures = {**{name: walls[name] for name in WALLS}, "floor": floor}
    repeats = dict.fromkeys(WALLS, f"0.5 {1 / WALL_HEIGHT}") | {"floor": "0.5 0.5"}  # a cell each way
    assets = "".join(
        f'<texture name="{name}" type="2d" file="{path}"/>'
        f'<material name="{name}" texture="{name}" texuniform="true" texrepeat="{repeats[name]}"/>'
        for name, path in textures.items()
    )
    geoms = "".join(_wall(number, face) for number, face in enumerate(plan.faces))
    geoms += "".join(
        f'<geom name="sphere{number}" type="sphere" size="{SPHERE}" pos="{number + 1} 1 0" rgba="1 1 1 1"/>'
        for number in range(objects)  # at different places, or MuJoCo would take them for unmovable
    )
    return f"""
        <mujoco>
          <visual>
            <headlight ambient="0.3 0.3 0.3" diffuse="0.6 0.6 0.6" specular="0 0 0"/>
            <global offwidth="{size}" offheight="{size}"/>
            <quality offsamples="0" shadowsize="0"/>
            <map znear="0.001"/>
          </visual>
          <statistic extent="10"/>
          <asset>
            <texture type="skybox" builtin="gradient" rgb1="0.4 0.6 0.8" rgb2="0 0 0" width="64" height="64"/>
            {assets}
          </asset>
          <worldbody>
            <camera fovy="{FIELD_OF_VIEW}"/>
            <geom type="plane" size="100 100 1" material="floor"/>
            {geoms}
          </worldbody>
        </mujoco>
    """


def _wall(number: int, face: Face) -> str:
    """Return a face as an upright plane, whose third axis points into the room."""
    middle, half = (face.low + face.high) / 2, (face.high - face.low) / 2
    x, y = (face.at, middle) if face.along_y else (middle, face.at)
    right = f"0 {face.towards} 0" if face.along_y else f"{-face.towards} 0 0"
    return (
        f'<geom name="wall{number}" type="plane" pos="{x} {y} {WALL_HEIGHT / 2}" xyaxes="{right} 0 0 1" '
        f'size="{half} {WALL_HEIGHT / 2} 1" material="red"/>'
    )
