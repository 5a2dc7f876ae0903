"""The log says what happened, once, and nothing that was lost with a crash; pictures show what they claim."""

import io
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from agent.run import logger
from agent.run.logger import Logger
from agent.run.writers import read_events
from tests.agent.run.house import metrics_of


def events(logdir: Path) -> list[Event]:
    """Return all TensorBoard events of a run folder."""
    return list(read_events(logdir))


def test_one_line_for_each_call_at_once(tmp_path: Path) -> None:
    """Lines are on disk when `add` returns; what is not finite becomes null."""
    log = Logger(tmp_path, 100)
    log.add(3, {"episode/return": np.float32(0.5), "train/loss": float("nan"), "time/updates": 7})
    assert metrics_of(tmp_path) == [{"step": 3, "episode/return": 0.5, "train/loss": None, "time/updates": 7}]
    log.add(4, {"eval/return_mean": float("inf")})
    assert metrics_of(tmp_path)[1] == {"step": 4, "eval/return_mean": None}
    with pytest.raises(ValueError, match="'step' is no name"):
        log.add(5, {"step": 1.0})
    log.close()
    log.close()


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    """Metrics of a run that never reached a checkpoint do not stay in its successor's log."""
    for value in (1.0, 2.0):
        log = Logger(tmp_path, 100)
        log.add(0, {"x": value})
        log.close()
    assert metrics_of(tmp_path) == [{"step": 0, "x": 2.0}]


def test_resume_removes_what_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Lines newer than the checkpoint, and a line cut by the crash, are removed and counted."""
    log = Logger(tmp_path, 100)
    for step in (10, 20, 30, 40):
        log.add(step, {"x": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')
    log = Logger(tmp_path, 100, resume_step=20)
    log.add(25, {"x": 25.0})
    log.close()
    assert [line["step"] for line in metrics_of(tmp_path)] == [10, 20, 25]
    assert "removed 3 lines of metrics.jsonl, newer than step 20 or damaged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob(".*")] == []
    found = events(tmp_path)
    assert [event.step for event in found if event.HasField("session_log")] == [21]
    assert len(list(tmp_path.glob("events.*"))) == 2


def test_tensorboard_gets_scalars_pictures_and_histograms(tmp_path: Path) -> None:
    """Everything arrives in the event file; values that are not finite are left out."""
    log = Logger(tmp_path, 100)
    log.add(3, {"a/b": 0.5, "bad": float("nan")})
    log.figure(4, "picture", Figure(figsize=(0.8, 0.6), dpi=100))
    log.histogram(5, "spread", np.array([1.0, 2.0, np.inf]))
    log.video(6, "film", (np.full((20, 30, 3), level, np.uint8) for level in (0, 100)), 5)
    log.close()
    values = {v.tag: (event.step, v) for event in events(tmp_path) for v in event.summary.value}
    assert {tag: step for tag, (step, _) in values.items()} == {
        "a/b": 3,
        "picture": 4,
        "spread": 5,
        "film": 6,
    }
    assert values["a/b"][1].simple_value == 0.5
    image = values["picture"][1].image
    assert (image.height, image.width) == (60, 80) and image.encoded_image_string.startswith(b"\x89PNG")
    assert values["spread"][1].histo.num == 2
    film = values["film"][1].image
    assert (film.height, film.width, film.colorspace) == (20, 30, 3)
    moving = Image.open(io.BytesIO(film.encoded_image_string))
    assert (moving.format, moving.n_frames, moving.info["duration"]) == ("GIF", 2, 200)


def test_without_tensorboard_only_metrics_are_written(tmp_path: Path) -> None:
    """The switch leaves nothing but metrics.jsonl."""
    log = Logger(tmp_path, 100, to="none")
    log.add(1, {"x": 1.0})
    log.figure(1, "picture", Figure())
    log.video(1, "film", [], 5)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_plain_lines_in_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal a line is printed at intervals, and a last one at the end."""
    clock = [0.0]
    monkeypatch.setattr(logger.time, "monotonic", lambda: clock[0])
    log = Logger(tmp_path, 1000, to="none")
    for step in range(0, 301, 10):
        clock[0] += 1
        log.progress(step, step // 10, None if step < 150 else 0.75)
    log.say("a word in between")
    log.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "step 90/1,000 (9%), 9 updates, return -, 9 frames/s, 01:41 left",
        "step 190/1,000 (19%), 19 updates, return 0.75, 10 frames/s, 01:21 left",
        "step 290/1,000 (29%), 29 updates, return 0.75, 10 frames/s, 01:11 left",
        "a word in between",
        "step 300/1,000 (30%), 30 updates, return 0.75, 10 frames/s, 01:10 left",
    ]


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal one line is redrawn with steps, updates, return, speed and time left."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log = Logger(tmp_path, 1000, to="none", resume_step=100)
    log.progress(400, 12, 0.5)
    log.close()
    shown = terminal.getvalue()
    assert "40%" in shown and "12 updates, return 0.5" in shown and "left" in shown
    assert "400/1.00k" in shown


@pytest.mark.faults("disk full")
def test_a_full_disk_is_an_error_with_the_path(tmp_path: Path) -> None:
    """The first line that does not reach the disk raises, in the thread that wrote it."""
    code = (
        "import sys\n"
        "from agent.run.logger import Logger\n"
        "log = Logger(sys.argv[1], 10, to='none')\n"
        "try:\n"
        "    for step in range(1000):\n"
        "        log.add(step, {'x': 1.0})\n"
        "except OSError as error:\n"
        "    print(step, error, flush=True)\n"
        "import os\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(logger.__file__).parents[2]
    result = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        timeout=60,
    )
    assert "writing the log failed" in result.stdout and "metrics.jsonl" in result.stdout
    assert int(result.stdout.split()[0]) < 300
