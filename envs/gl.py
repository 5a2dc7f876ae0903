"""Find a way to draw without a display: try EGL, then OSMesa, then GLFW, and keep the first that works."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

from envs import extras

BACKENDS = ("egl", "osmesa", "glfw")
MENDING = "sudo apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"

# A context alone proves little (GLFW makes one of nothing), so something is drawn.
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
with mujoco.Renderer(model, 8, 8) as renderer:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    assert renderer.render().any()
"""


@functools.cache
def backend() -> str | None:
    """Choose how MuJoCo draws, before it is imported; None if there is no way.

    The choice is said in one line on stderr and kept in the environment variable MUJOCO_GL, for processes
    started from here too. A MUJOCO_GL that is set already is taken without a trial. Each trial is a process
    of its own, because a GL library that failed cannot be unloaded.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")  # small pictures in software: Mesa's threads only cost time
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return chosen
    for name in BACKENDS:
        trial = [sys.executable, "-c", _TRIAL]
        done = subprocess.run(trial, env=os.environ | {"MUJOCO_GL": name}, capture_output=True)
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            print(f"GL backend: {name}", file=sys.stderr)
            return name
    return None


def require(what: str) -> None:
    """Choose a backend.

    Raises:
        ImportError: none works, and the message says what to install; or dm-control was imported before,
            with another one.
    """
    chosen = backend()
    if chosen is None:
        raise ImportError(
            f"{what} has to be drawn, and no GL backend works here (tried {', '.join(BACKENDS)}): {MENDING}. "
            "Set MUJOCO_GL to name one yourself."
        )
    settled = getattr(sys.modules.get("dm_control._render"), "BACKEND", chosen)
    if settled != chosen:
        raise ImportError(
            f"{what} has to be drawn with the GL backend {chosen}, but dm_control was imported before and "
            f"settled for {settled}: start Python with MUJOCO_GL={chosen} set."
        )


def camera(physics: Any, camera_id: int | str, size: int, fast: bool) -> Any:
    """Return one camera for all frames: making one for each, as dm-control does, takes most of the time.

    Args:
        physics: a dm-control physics with which nothing was drawn yet.
        camera_id: number or name of the camera.
        size: height and width of the picture.
        fast: draw without shadows, reflections and multisampling.
    """
    if fast:
        physics.model.vis.quality.offsamples = 0  # read when the first camera is made
    engine = extras.load("dm_control.mujoco", "of 3D worlds", "dmc", "dm_control mujoco")
    made = engine.Camera(physics, size, size, camera_id)
    if fast:
        flags = extras.load("mujoco", "of 3D worlds", "dmc", "mujoco").mjtRndFlag
        made.scene.flags[[int(flags.mjRND_SHADOW), int(flags.mjRND_REFLECTION)]] = 0
    return made
