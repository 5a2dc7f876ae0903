"""Pictures and keys in a terminal: half blocks in 24-bit colours, and a key at a time."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Sequence

import numpy as np
from PIL import Image

ARROWS = {"left": "\x1b[D", "right": "\x1b[C", "up": "\x1b[A", "down": "\x1b[B"}
"""Name of a key -> what a terminal sends."""
GAP = 2  # columns between pictures


class Terminal:
    """A screen of its own, which is left as it was found, while a `with` block lasts."""

    def __enter__(self) -> Terminal:
        self._keyboard = sys.stdin.fileno()
        self._saved = termios.tcgetattr(self._keyboard)
        tty.setcbreak(self._keyboard, termios.TCSANOW)
        self._write("\x1b[?1049h\x1b[?25l")
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._keyboard, termios.TCSANOW, self._saved)
        self._write("\x1b[0m\x1b[?25h\x1b[?1049l")

    def key(self, seconds: float | None) -> str:
        """The next key: a character or one of `ARROWS`; '' if none comes in time, 'q' where all is closed."""
        if not select.select([self._keyboard], [], [], seconds)[0]:
            return ""
        typed = os.read(self._keyboard, 1)
        if typed == b"\x1b" and select.select([self._keyboard], [], [], 0.05)[0]:
            typed += os.read(self._keyboard, 2)
        text = typed.decode(errors="replace") or "q"
        return next((name for name, sent in ARROWS.items() if sent == text), text)

    def show(self, pictures: Sequence[np.ndarray], lines: Sequence[str]) -> None:
        """Show pictures of one size, uint8 `[h, w, 3]`, side by side above lines of text."""
        columns, rows = shutil.get_terminal_size()
        height, width = pictures[0].shape[:2]
        room = (columns + GAP) // len(pictures) - GAP, 2 * (rows - len(lines) - 1)
        scale = max(min(room[0] / width, room[1] / height), 2 / height, 1 / width)
        scale = int(scale) if scale >= 1 else scale
        size = max(1, int(width * scale)), max(2, int(height * scale) // 2 * 2)
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        small = [np.asarray(Image.fromarray(picture).resize(size, how)) for picture in pictures]
        drawn = [
            "\x1b[0m".ljust(4 + GAP).join(_blocks(image[y], image[y + 1]) for image in small)
            for y in range(0, size[1], 2)
        ]
        text = [line[:columns] for line in lines]
        self._write("\x1b[H" + "".join(f"{line}\x1b[0m\x1b[K\n" for line in [*drawn, *text]) + "\x1b[J")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _blocks(upper: np.ndarray, lower: np.ndarray) -> str:
    """Two rows of pixels `[w, 3]` as one of upper half blocks."""
    return "".join(
        "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*above, *below)
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True)
    )
