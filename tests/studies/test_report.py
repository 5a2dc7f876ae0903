"""The page of runs: what their folders hold is on it, it needs nothing else, and no text becomes a tag."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.run import pictures
from agent.run.logger import Logger
from tests.studies.conftest import Call, Refused, Train

TASK = "memory_chain:n=5"


def test_runs_side_by_side(train: Train, tmp_path: Path, call: Call) -> None:
    """Curves, costs, news, pictures, options; the names are those below the folder of all."""
    for name, backbone in (("a", "s4wm"), ("b<i>", "rssm")):
        drawn = shutil.ignore_patterns("imagine", "*.gif", "*.png")  # by other tests
        shutil.copytree(train(backbone, TASK), tmp_path / "runs" / name, ignore=drawn)
    log = Logger(tmp_path / "runs" / "a", 100, resume_step=100)
    for value in (0.0, 1.0):
        log.figure(90, "open_loop/vector/0", pictures.open_loop(np.ones((4, 2)), np.full((4, 2), value), 2))
    log.histogram(90, "memory_log10_steps/0", np.linspace(1, 3, 99))
    log.add(100, {"kl_by_step/0000": 3.0, "kl_by_step/0001": 1.0})
    log.close()
    (tmp_path / "runs" / "a" / "played.gif").write_bytes(b"GIF89a")
    (tmp_path / "runs" / "a" / "other.gif").write_bytes(b"<script>")
    out = tmp_path / "new" / "page.html"
    assert call("report", tmp_path / "runs", "--out", out)["out"] == str(out)
    text = out.read_text()
    assert (
        text.count("<svg ") == 4 and text.count("data:image/png") == 1 and text.count("data:image/gif") == 1
    )
    assert "open_loop/vector/0, at step 90" in text and "played.gif" in text and "<script" not in text
    assert "<th>b&lt;i&gt;</th>" in text and "<i>" not in text
    assert f"python run.py imagine {tmp_path}/runs/b&lt;i&gt;" in text  # the run without pictures
    assert "<th>backbone</th><td>s4wm</td><td>s4wm</td><td>rssm</td>" in text
    assert "<th>steps</th><td>100 of 100</td><td>1" in text
    assert re.search(r"the preset \(debug\), the backbone or the task, alike in all: \d\d", text)
    sources = re.findall(r"(?:src|href)='?\"?([^#'\"> ]{1,5})", text)
    assert {*sources} == {"data:"}, "it needs something from elsewhere"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--out", "a.html"], "no nowhere: expected the folder of a run"),
        (["empty", "--out", "a.html"], "no run in empty"),
        (["strange", "--out", "a.html"], "no run in"),
        (["strange", "--out", "a.pdf"], "must end in one of .html, .htm"),
        (["strange", "--out", "file/a.html"], "cannot be written"),
    ],
)
def test_mistakes(
    words: list[str], said: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "strange"):
        Path(folder).mkdir()
    Path("strange/metrics.jsonl").touch()
    Path("file").touch()
    assert said in refused("report", *words)
    assert not Path("a.html").exists()
