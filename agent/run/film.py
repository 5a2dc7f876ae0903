"""A video of an evaluation: its episodes side by side, as they are drawn or observed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import configs
from agent.run.video import Colour, Tile, Tiles, Write, record, rgb
from envs import EnvironmentFailure, VectorDoor
from replay.rows import Rows

SHOWN = 16  # environments, of which each plays its episodes one after the other
PLAYING: Colour = (40, 60, 100)
ENDED: Colour = (90, 90, 90)
HELD = 1.0  # seconds for which the last frame stays


@contextlib.contextmanager
def film(path: Path, task: str) -> Iterator[Film]:
    """Yield the film of an evaluation, which is written to `path` when the block ends; see `record`."""
    with contextlib.ExitStack() as stack:
        made = Film(lambda fps: stack.enter_context(record(path, fps)), task)
        yield made
        made.hold()


class Film:
    """The frames of an evaluation: what the first 16 environments draw, or else the first image observed.

    Below each are the steps and the return of its episode so far. One that has played all its episodes stays
    as it was at their end, darker.

    Args:
        begin: begins a video of so many frames a second.
        task: for messages.
    """

    def __init__(self, begin: Callable[[float], Write], task: str) -> None:
        self._begin, self._task = begin, task
        self._fps = 0.0
        self._shown: list[Tile] = []

    def add(
        self, envs: VectorDoor, rows: Rows, playing: np.ndarray, steps: np.ndarray, returns: np.ndarray
    ) -> None:
        """Add a frame, unless none of the environments shown is playing any more.

        Args:
            envs: as they are at these rows.
            rows: what they returned.
            playing: `[N]` bool, whether each still plays, this row included.
            steps, returns: of each one's episode so far, `[N]`.

        Raises:
            configs.Mistake: at the first frame, there is nothing to be seen.
        """
        pictures = self._pictures(envs, rows)
        if not self._shown:
            height, width = pictures[0].shape[:2]
            self._tiles = Tiles(len(pictures), height, width)
            self._fps = envs.fps
            self._write = self._begin(self._fps)
            self._shown = [(picture, "", PLAYING) for picture in pictures]
        elif not playing[:SHOWN].any():
            return
        for number, picture in enumerate(pictures):
            if playing[number]:
                text = f"step {steps[number]}  return {returns[number]:.3g}"
                self._shown[number] = picture, text, PLAYING
            elif self._shown[number][2] != ENDED:
                last, text, _ = self._shown[number]
                self._shown[number] = last // 5 * 3, text, ENDED
        self._write(self._tiles.draw(self._shown))

    def hold(self) -> None:
        """Let the last frame stay for a while, as a video begins anew or closes at its end."""
        if self._shown:
            last = self._tiles.draw(self._shown)
            for _ in range(round(HELD * self._fps)):
                self._write(last)

    def _pictures(self, envs: VectorDoor, rows: Rows) -> list[np.ndarray]:
        try:
            drawn = envs.render()
        except EnvironmentFailure as failure:
            if self._shown:
                raise
            raise configs.Mistake(f"there is no video of {self._task}: {failure}") from failure
        if drawn is not None:
            return drawn[:SHOWN]
        for leaf in rows.values():
            if leaf.ndim == 4:
                return list(rgb(leaf[:SHOWN]))
        seen = ", ".join(
            f"{key.removeprefix('obs/')} {list(leaf.shape[1:])}"
            for key, leaf in rows.items()
            if key.startswith("obs/")
        )
        raise configs.Mistake(
            f"there is no video of {self._task}: its environment has no render mode 'rgb_array', and no "
            f"picture is observed ({seen})."
        )
