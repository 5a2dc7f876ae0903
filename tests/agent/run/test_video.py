"""A video holds the frames it was given, or is not there at all."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.run import video
from agent.run.video import Tiles, as_gif, record

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 3), np.uint8)


def frames(count: int, height: int = 30, width: int = 46) -> list[np.ndarray]:
    """Frames of few colours, of which a part changes from one to the next; the third is as the second."""
    made = [COLOURS[RANDOM.integers(0, 6, (height, width))]]
    for number in range(1, count):
        made.append(made[-1].copy())
        if number != 2:
            made[-1][5:20, number : number + 9] = COLOURS[RANDOM.integers(0, 6, (15, 9))]
    return made


def read(gif: bytes) -> list[np.ndarray]:
    image, found = Image.open(io.BytesIO(gif)), []
    for number in range(image.n_frames):
        image.seek(number)
        found.append(np.asarray(image.convert("RGB")))
    return found


class TestGif:
    def test_frames_of_few_colours_come_back_as_they_were(self) -> None:
        made = frames(5)
        for frame, found in zip(made, read(as_gif(made, 10)), strict=True):
            np.testing.assert_array_equal(found, frame)

    @pytest.mark.parametrize(("fps", "milliseconds"), [(10, 100), (4, 250), (50, 20), (1000, 20)])
    def test_its_speed_and_that_it_begins_anew(self, fps: float, milliseconds: int) -> None:
        image = Image.open(io.BytesIO(as_gif(frames(3), fps)))
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (3, milliseconds, 0)

    def test_many_colours_are_nearly_right(self) -> None:
        ramps = np.stack(np.meshgrid(np.arange(0, 256, 4), np.arange(0, 256, 4)), -1).astype(np.uint8)
        made = [np.concatenate([ramps, np.full((64, 64, 1), blue, np.uint8)], -1) for blue in (0, 200)]
        for frame, found in zip(made, read(as_gif(made, 10)), strict=True):
            assert np.abs(found.astype(int) - frame).mean() < 6

    def test_what_stays_takes_no_room(self) -> None:
        made = frames(2)
        still = len(as_gif(made[:1] * 20, 10)) - len(as_gif(made[:1], 10))
        assert still < 19 * 60


class TestRecord:
    def test_a_gif(self, tmp_path: Path) -> None:
        made = frames(4)
        with record(tmp_path / "new" / "a.GIF", 10) as write:
            for frame in made:
                write(frame)
            assert not (tmp_path / "new" / "a.GIF").exists()
        np.testing.assert_array_equal(read((tmp_path / "new" / "a.GIF").read_bytes()), made)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.GIF"]

    @pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
    def test_what_was_there_stays_if_it_fails(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder(tmp_path / "ffmpeg", 'for last; do :; done; cat > "$last"', monkeypatch)
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises(ZeroDivisionError), record(tmp_path / name, 10) as write:
            write(frames(1)[0])
            raise ZeroDivisionError
        assert (tmp_path / name).read_bytes() == b"old"
        assert sorted(path.name for path in tmp_path.iterdir()) == [name, "ffmpeg"]


def encoder(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in the place of ffmpeg."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(video, "_ffmpeg", lambda: str(path))


class TestMp4:
    def test_the_encoder_gets_every_byte(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = f'echo "$@" > {tmp_path}/said; for last; do :; done; cat > "$last"'
        encoder(tmp_path / "ffmpeg", script, monkeypatch)
        made = frames(3)
        with record(tmp_path / "a.mp4", 12.5) as write:
            for frame in made:
                write(frame)
        assert (tmp_path / "a.mp4").read_bytes() == np.stack(made).tobytes()
        assert "-r 12.5 -s 46x30 -i -" in (tmp_path / "said").read_text()

    @pytest.mark.parametrize(
        "script", ["echo no such codec >&2; exit 3", "cat >&2 < /dev/null; exec true 0<&-"]
    )
    def test_an_encoder_that_fails_is_an_error(
        self, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether it says so, or ends without taking the frames, before these are written or after."""
        encoder(tmp_path / "ffmpeg", script, monkeypatch)
        said = "no such codec" if "codec" in script else "No such file|ended with 0: it said nothing"
        with pytest.raises(OSError, match=said), record(tmp_path / "a.mp4", 10) as write:
            for frame in frames(3):
                write(frame)
        assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]

    def test_by_ffmpeg_itself(self, tmp_path: Path) -> None:
        try:
            program = video._ffmpeg()
        except ValueError as error:
            pytest.skip(str(error))
        made = [np.full((31, 45, 3), level, np.uint8) for level in (0, 80, 160, 240)]
        with record(tmp_path / "a.mp4", 10) as write:
            for frame in made:
                write(frame)
        command = [program, "-loglevel", "error", "-i", str(tmp_path / "a.mp4")]
        raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
        found = np.frombuffer(raw.stdout, np.uint8).reshape(4, 32, 46, 3)  # H.264 wants even sides
        assert np.abs(found[:, :31, :45].astype(int) - made).max() < 8


class TestCheck:
    def test_the_suffix(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"a.avi must end in one of .gif, .mp4"):
            video.check(tmp_path / "a.avi")
        video.check(tmp_path / "a.gif")
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_encoder_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install -e '.\[video\]'"):
            video.check(tmp_path / "a.mp4")
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
        video.check(tmp_path / "a.mp4")
        assert video._ffmpeg() == "/bin/ffmpeg" and list(tmp_path.iterdir()) == []


class TestTiles:
    def test_small_pictures_are_enlarged_and_stand_in_rows(self) -> None:
        tiles = Tiles(5, 40, 40)
        pictures = [np.full((40, 40, 3), 10 * number, np.uint8) for number in range(5)]
        pictures[1][0, 0] = 255
        frame = tiles.draw((picture, "", (200, 0, 0)) for picture in pictures)
        assert tiles.columns == 3
        assert frame.shape == (2 * (160 + 14) + 4, 3 * 160 + 2 * 4, 3)
        assert (frame[:160, :160] == 0).all() and (frame[160:174, :160] == (200, 0, 0)).all()
        assert (frame[:4, 164:168] == 255).all() and (frame[4:160, 168:324] == 10).all()
        assert (frame[178:338, 164:324] == 40).all() and (frame[178:, 328:] == 255).all()

    @pytest.mark.parametrize(
        ("height", "width", "count", "size"),
        [
            (400, 600, 4, (2, 200, 300)),
            (72, 800, 4, (1, 72, 800)),  # wide ones stand below each other
            (64, 64, 1, (1, 128, 128)),
            (3, 5000, 2, (1, 3, 5000)),
        ],
    )
    def test_sizes(self, height: int, width: int, count: int, size: tuple[int, int, int]) -> None:
        tiles = Tiles(count, height, width)
        assert (tiles.columns, tiles.height, tiles.width) == size
        picture = np.zeros((height, width, 3), np.uint8)
        assert tiles.draw([(picture, "text", (9, 9, 9))] * count).dtype == np.uint8

    def test_columns_and_sizes_as_asked_for(self) -> None:
        tiles = Tiles(6, 40, 40, columns=3, side=96)
        assert (tiles.columns, tiles.height) == (3, 80)

    def test_another_size_is_fitted(self) -> None:
        grey, small = np.full((40, 40, 3), 50, np.uint8), np.full((20, 10, 3), 70, np.uint8)
        frame = Tiles(2, 40, 40).draw([(grey, "", (0, 0, 0)), (small, "", (0, 0, 0))])
        assert (frame[:160, 164:324] == 70).all()

    def test_the_text_is_there(self) -> None:
        picture = np.zeros((40, 40, 3), np.uint8)
        blank, said = (Tiles(1, 40, 40).draw([(picture, text, (0, 0, 90))]) for text in ("", "step 3"))
        assert (said != blank).any() and (said[:160] == blank[:160]).all()


def test_other_numbers_of_channels_are_shown_as_grey() -> None:
    stack = np.zeros((2, 4, 4, 6), np.uint8)
    stack[..., 3] = 60
    shown = video.rgb(stack)
    assert (shown == 10).all() and shown.shape == (2, 4, 4, 3) and shown.dtype == np.uint8
    assert video.rgb(shown) is shown
