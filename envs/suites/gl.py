"""Find a way to draw without a display: try EGL, then OSMesa, then GLFW, and keep the first that works."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np

from envs.suites import extras

BACKENDS = ("egl", "osmesa", "glfw")
MENDING = "sudo apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"

# A context alone proves little (GLFW may give one that cannot draw), so something is drawn.
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
with mujoco.Renderer(model, 8, 8) as renderer:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    assert renderer.render().any()
"""


def load_triton_before_mesa() -> None:
    """Load Triton, where torch is loaded and would load it with its first optimiser.

    Mesa, which draws where there is no GPU, and Triton bring an LLVM each, and the process crashes where
    Triton's comes second (Triton 3.7, Mesa 22.3).
    """
    if "torch" in sys.modules and importlib.util.find_spec("triton"):
        with contextlib.suppress(ImportError):  # torch does without it then
            importlib.import_module("triton")


@functools.cache
def backend() -> str | None:
    """Choose MuJoCo's GL backend, before MuJoCo is imported; None if none works.

    The choice is printed as one line on stderr and kept in the environment variable MUJOCO_GL, also for
    processes started from here. A MUJOCO_GL that is set already is taken without a trial. Each trial is a
    process of its own, because a GL library that failed cannot be unloaded.
    """
    load_triton_before_mesa()
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


def camera(physics: Any, number: int, size: int, fast: bool) -> Any:
    """Return one camera for all frames: making one for each, as dm-control does, takes most of the time.

    Args:
        physics: a dm-control physics with which nothing has been drawn yet.
        number: of the camera.
        size: height and width of the picture.
        fast: draw without shadows, reflections and multisampling.
    """
    from dm_control.mujoco import Camera  # installed, as `physics` is dm-control's
    from mujoco import mjtRndFlag

    physics.model.vis.global_.offwidth = physics.model.vis.global_.offheight = size  # no more needs clearing
    if fast:
        physics.model.vis.quality.offsamples = 0  # these are read when the first camera is made
    made = Camera(physics, size, size, number)
    if fast:
        made.scene.flags[[int(mjtRndFlag.mjRND_SHADOW), int(mjtRndFlag.mjRND_REFLECTION)]] = 0
    return made


class Canvas:
    """A GL context, and the view of a model that is drawn in it.

    It is dm-control's, which keeps track of the current context: if another one were made current behind its
    back, dm-control's environments in this process would draw into that one, and it into theirs.

    Args:
        size: height and width of the picture.
        needs: tasks, extra and packages, as for `extras.load`.
    """

    def __init__(self, size: int, needs: tuple[str, str, str]) -> None:
        self._mujoco = extras.load("mujoco", *needs)
        self._wrapper = extras.load("dm_control.mujoco.wrapper", *needs)
        self._gl = extras.load("dm_control._render", *needs).Renderer(size, size)
        self._rect = self._mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), np.uint8)

    def model(self, xml: str, files: dict[str, bytes] | None = None) -> Any:
        """Compile a model, a dm-control `MjModel`; `files` are name -> contents."""
        return self._wrapper.MjModel.from_xml_string(xml, files)

    def upload(self, model: Any) -> Any:
        """Upload to GL what a model is drawn with; return a dm-control `MjrContext`, freed by its `free()`.

        GL's own context ends with the last of them.
        """
        model.vis.global_.offwidth, model.vis.global_.offheight = self._rect.width, self._rect.height
        return self._wrapper.MjrContext(model, self._gl)

    def look(self, model: Any, camera: int) -> None:
        """Choose the camera, by its number, of a dm-control `MjModel`."""
        self._model, self._scene = model.ptr, self._wrapper.MjvScene(model)
        self._options, self._perturb = self._wrapper.MjvOption(), self._wrapper.MjvPerturb()
        self._camera = self._wrapper.MjvCamera()
        self._camera.type, self._camera.fixedcamid = self._mujoco.mjtCamera.mjCAMERA_FIXED, camera

    def picture(self, data: Any, context: Any) -> np.ndarray:
        """Return the camera's view, uint8 `[size, size, 3]`; `data` is MuJoCo's, `context` from `upload`."""
        everything = self._mujoco.mjtCatBit.mjCAT_ALL
        view = (self._options, self._perturb, self._camera, everything, self._scene.ptr)
        self._mujoco.mjv_updateScene(self._model, data, *view)
        with self._gl.make_current() as gl:
            gl.call(self._mujoco.mjr_render, self._rect, self._scene.ptr, context.ptr)
            gl.call(self._mujoco.mjr_readPixels, self._pixels, None, self._rect, context.ptr)
        return self._pixels[::-1].copy()  # GL counts rows from the bottom
