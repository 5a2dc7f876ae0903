"""Videos, as GIF or MP4: pictures side by side in one frame, and the frames in a file."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops, ImageDraw, ImageFont

from replay.files import atomic, writable

Write = Callable[[np.ndarray], None]
"""Adds a frame, uint8 `[H, W, 3]`; all frames of a video have one size."""
Colour = tuple[int, int, int]
Tile = tuple[np.ndarray, str, Colour]
"""A picture uint8 `[h, w, 3]`, what stands below it, and the colour behind that."""

SUFFIXES = (".gif", ".mp4")
SIDE, LARGEST = 160, 320  # pixels up to which pictures are enlarged, and from which on they are reduced
LINE, GAP = 14, 4  # pixels: height of the text below a picture, and between pictures
SHAPE = 4 / 3  # width by height of a frame that many pictures are arranged in
BACKGROUND = 255


def check(path: Path) -> None:
    """Check before the work that a video can be written to `path`; nothing is created.

    Raises:
        ValueError: it has another suffix or cannot be written, or what encodes MP4 is not installed.
    """
    if writable(path, SUFFIXES).suffix.lower() == ".mp4":
        _ffmpeg()


@contextlib.contextmanager
def record(path: Path, fps: float) -> Iterator[Write]:
    """Yield what writes frames, one or more, into the video `path`, which is there when the block ends.

    If the block raises, or the disk takes no more, `path` is as it was, as with `replay.files.atomic`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path, "a video") as temporary, contextlib.ExitStack() as stack:
        film: Gif | Mp4
        if path.suffix.lower() == ".mp4":
            film = Mp4(temporary, fps, stack.enter_context(tempfile.TemporaryFile()))
            stack.callback(film.kill)
        else:
            film = Gif(stack.enter_context(temporary.open("wb")), fps)
        yield film.add
        film.close()


def as_gif(frames: Iterable[np.ndarray], fps: float) -> bytes:
    """A GIF of some frames, each uint8 `[H, W, 3]`."""
    file = io.BytesIO()
    gif = Gif(file, fps)
    for frame in frames:
        gif.add(frame)
    gif.close()
    return file.getvalue()


class Gif:
    """Writes frames as they come; Pillow's own writer keeps all of them in memory until the end.

    Each frame holds what differs from the one before, in at most 256 colours of its own.

    Args:
        file: to write to.
        fps: frames a second; browsers show at most 50.
    """

    def __init__(self, file: IO[bytes], fps: float) -> None:
        self._file, self._milliseconds = file, 10 * max(2, round(100 / fps))
        self._last: Image.Image | None = None

    def add(self, frame: np.ndarray) -> None:
        """Add a frame uint8 `[H, W, 3]`, of the same size as the others."""
        image = Image.fromarray(frame)
        if self._last is None:
            box = (0, 0, *image.size)
            self._file.writelines(GifImagePlugin.getheader(_indexed(image), info={"loop": 0})[0])
        else:
            box = ImageChops.difference(image, self._last).getbbox() or (0, 0, 1, 1)
        self._last = image
        part = _indexed(image.crop(box))
        self._file.writelines(
            GifImagePlugin.getdata(part, box[:2], duration=self._milliseconds, include_color_table=True)
        )

    def close(self) -> None:
        """Write what ends the file, which stays open."""
        self._file.write(b";")


def _indexed(image: Image.Image) -> Image.Image:
    return image.quantize(256, dither=Image.Dither.NONE)


def _ffmpeg() -> str:
    """The program that encodes MP4: that of imageio-ffmpeg, or one on the path.

    Raises:
        ValueError: there is neither; the message names the extra.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:  # RuntimeError: it came without a program for this machine
        found = shutil.which("ffmpeg")
        if found is None:
            raise ValueError(
                "MP4 needs ffmpeg, which is not installed: pip install -e '.[video]' brings it; a .gif needs "
                "nothing."
            ) from error
        return found


class Mp4:
    """Hands frames to ffmpeg as they come.

    Args:
        path: the file that ffmpeg writes.
        fps: frames a second.
        said: an open file for what ffmpeg says.
    """

    def __init__(self, path: Path, fps: float, said: IO[bytes]) -> None:
        self._path, self._fps, self._said = path, fps, said
        self._encoder: subprocess.Popen[bytes] | None = None

    def add(self, frame: np.ndarray) -> None:
        """Add a frame uint8 `[H, W, 3]`, of the same size as the others."""
        # H.264 with halved colours, which every player shows, has even sides.
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")
        if self._encoder is None:
            self._encoder = self._begin(f"{frame.shape[1]}x{frame.shape[0]}")
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(frame.tobytes())
        except BrokenPipeError as error:
            raise self._failure(self._encoder) from error

    def _begin(self, size: str) -> subprocess.Popen[bytes]:
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-r", f"{self._fps:g}", "-s", size, "-i", "-"]
        coded = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-f", "mp4"]
        command = [_ffmpeg(), "-loglevel", "error", "-y", *raw, *coded, str(self._path)]
        # In a session of its own: Ctrl-C is for this process to handle.
        streams = {"stdin": subprocess.PIPE, "stdout": self._said, "stderr": self._said}
        return subprocess.Popen(command, start_new_session=True, **streams)  # type: ignore[call-overload]

    def close(self) -> None:
        """Wait until everything is written; an OSError says what ffmpeg said if it failed."""
        if self._encoder is not None:
            self._encoder.communicate()
            if self._encoder.returncode:
                raise self._failure(self._encoder)

    def _failure(self, encoder: subprocess.Popen[bytes]) -> OSError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            encoder.wait(5)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip()
        return OSError(errno.EIO, f"ffmpeg ended with {encoder.returncode}: {lines or 'it said nothing'}")

    def kill(self) -> None:
        """End ffmpeg if it is still at work."""
        if self._encoder is not None and self._encoder.poll() is None:
            self._encoder.kill()
            self._encoder.wait()


class Tiles:
    """Pictures side by side in one frame, each with a line of text below it.

    Args:
        count: how many.
        height, width: of the first picture; it is enlarged or reduced by a whole number, and others are
            fitted to the same size.
        columns: in one row; by default as many as make the frame about 4 to 3.
        side: pixels up to which pictures are enlarged.
    """

    def __init__(
        self, count: int, height: int, width: int, columns: int | None = None, side: int = SIDE
    ) -> None:
        mean = math.sqrt(height * width)
        times, part = max(1, int(side // mean)), max(1, math.ceil(mean / LARGEST))
        self.height, self.width = max(1, height * times // part), max(1, width * times // part)
        across, down = self.width + GAP, self.height + LINE + GAP
        self.columns = columns or min(count, max(1, round(math.sqrt(SHAPE * count * down / across))))
        rows = math.ceil(count / self.columns)
        self._size = rows * down - GAP, self.columns * across - GAP
        places = (divmod(number, self.columns) for number in range(count))
        self._corners = [(row * down, column * across) for row, column in places]
        self._font = ImageFont.load_default()

    def draw(self, tiles: Iterable[Tile]) -> np.ndarray:
        """One frame, uint8 `[H, W, 3]`."""
        frame = Image.new("RGB", self._size[::-1], (BACKGROUND,) * 3)
        draw = ImageDraw.Draw(frame)
        for (top, left), (picture, text, colour) in zip(self._corners, tiles, strict=True):
            small = picture.shape[0] <= self.height
            how = Image.Resampling.NEAREST if small else Image.Resampling.BOX
            frame.paste(Image.fromarray(picture).resize((self.width, self.height), how), (left, top))
            below = top + self.height
            draw.rectangle((left, below, left + self.width - 1, below + LINE - 1), fill=colour)
            draw.text((left + 3, below + 1), text, font=self._font)
        return np.asarray(frame)


def rgb(images: np.ndarray) -> np.ndarray:
    """Images `[..., C]` with three channels; any other number of them is shown as grey."""
    if images.shape[-1] == 3:
        return images
    return images.mean(-1, keepdims=True).astype(images.dtype).repeat(3, -1)
