"""The gallery: what is measured, and that the document shows it."""

import itertools
import json

import numpy as np
import pytest

import envs
from studies import gallery


@pytest.fixture(scope="module")
def stored():
    return json.loads((gallery.FOLDER / "gallery.json").read_text())


def test_the_document_shows_what_was_measured(stored):
    text = gallery.DOCUMENT.read_text()
    assert gallery.place(text, stored) == text
    for name in gallery.PICTURES:
        assert f"gallery/{name}.png" in text
        assert (gallery.FOLDER / f"{name}.png").exists()


def test_every_family_is_in_the_gallery(stored):
    tasks = {row.task for row in gallery.ROWS}
    assert stored.keys() <= tasks
    assert set(envs.TASKS) | set(envs.FAMILIES) == {task.split(":")[0] for task in tasks}
    assert set(envs.TASKS) <= stored.keys()


@pytest.mark.parametrize("task", ["memory_chain", "tmaze", "discounting_chain"])
def test_measuring_again_gives_the_same(task, stored):
    (row,) = [row for row in gallery.ROWS if row.task == task]
    got = gallery.measure(row) | {"frames": stored[task]["frames"]}
    assert gallery.table({task: got}, [task]) == gallery.table({task: stored[task]}, [task])
    assert got["solution"] == pytest.approx(got["optimum"])


def test_our_optimal_policies_reach_the_optimum(stored):
    solved = {task: got for task, got in stored.items() if got["solution"] is not None}
    assert {"distracting_memory", "multi_doors_keys:keys=7", "memory_chain:n=100"} <= solved.keys()
    for task, got in solved.items():
        assert got["solution"] == pytest.approx(got["optimum"]), task


def test_measured_by_hand():
    row = gallery.Row("tmaze:corridor=1,limit=3", "1 step", episodes=200)
    got = gallery.measure(row, speed=True)
    assert got["length"] == [2, 3]
    # At random: forward first (else too late unless forward second, then a turn), then one turn in two.
    mean, deviation, episodes = got["random"]
    reached = 1 / 3 * (2 / 3 + 1 / 3 * 2 / 3) + 2 / 3 * 1 / 3 * 2 / 3
    assert abs(mean - reached / 2) < 0.1
    assert (deviation, episodes) == (pytest.approx(np.sqrt(mean * (1 - mean))), 200)
    assert (got["solution"], got["optimum"]) == (1.0, 1.0)
    assert got["frames"] > 1000


def test_a_line_of_the_table():
    got = {
        "length": [2, 3],
        "random": [0.25, 0.4333, 200],
        "solution": 1.0,
        "optimum": None,
        "frames": 12345.6,
    }
    _, _, line, other, pixels = gallery.table({"tmaze": got}, ["tmaze"]).splitlines()
    assert line == "| `tmaze` | 2 to 3 | 10 steps | 0.25 ± 0.43 (200) | 12,346 |"
    assert other == "| `tmaze:corridor=100` | - | 100 steps | not measured yet | - |"
    assert pixels.startswith("| `tmaze:observation=pixels` |")


def marked(*tables):
    """A document with marks, each for the tasks of these first names, and something in between."""
    return "above\n" + "".join(
        f"<!-- gallery: begin {names} -->\nold\n<!-- gallery: end -->\n" for names in tables
    )


def test_tables_go_between_their_marks():
    names = list(dict.fromkeys(row.task.split(":")[0] for row in gallery.ROWS))
    text = marked("tmaze", " ".join(name for name in names if name != "tmaze"))
    first, second = gallery.place(text, {}).split("<!-- gallery: end -->")[:2]
    assert first == f"above\n<!-- gallery: begin tmaze -->\n{gallery.table({}, ['tmaze'])}\n"
    assert second.count("\n| `") == len(gallery.ROWS) - first.count("\n| `")
    with pytest.raises(ValueError, match=r"no marks .* with \['tmaze'\]"):
        gallery.place(marked(*(name for name in names if name != "tmaze")), {})


def test_pictures():
    strip = np.asarray(gallery.picture("tmaze:corridor=6", "solution"))
    assert strip.shape == (96, 8 * 100 - 4, 3)
    tiles = [strip[:, 100 * n : 100 * n + 96] for n in range(8)]
    assert all((one != other).any() for one, other in itertools.pairwise(tiles))
    strip = gallery.picture("rooms", "script")
    assert strip.size == (796, 96)


def test_unknown_tasks_are_refused(refused):
    assert "not in the gallery: tmaz. It has: repeat_previous, memory_chain," in refused("gallery", "tmaz")


def test_as_a_command(tmp_path, monkeypatch, call, stored):
    """A named task is measured anew, what is not measured again is kept; the document follows."""
    monkeypatch.setattr(gallery, "FOLDER", tmp_path / "gallery")
    monkeypatch.setattr(gallery, "DOCUMENT", tmp_path / "environments.md")
    monkeypatch.setattr(gallery, "PICTURES", {"tmaze": ("tmaze:corridor=6", "solution")})
    names = [row.task.split(":")[0] for row in gallery.ROWS]
    gallery.DOCUMENT.write_text(marked(" ".join(names)))
    gallery.FOLDER.mkdir()
    (gallery.FOLDER / "gallery.json").write_text(
        json.dumps({"tmaze": {"frames": 7.0}, "rooms": stored["rooms"]})
    )
    assert call("gallery", "tmaze", "--pictures") == {"pictures": ["tmaze"], "tasks": ["tmaze"]}
    measured = json.loads((gallery.FOLDER / "gallery.json").read_text())
    assert measured == {"tmaze": stored["tmaze"] | {"frames": 7.0}, "rooms": stored["rooms"]}
    assert gallery.table(measured, names) in gallery.DOCUMENT.read_text()
    assert (gallery.FOLDER / "tmaze.png").read_bytes().startswith(b"\x89PNG")


def test_solutions_need_no_packages():
    for task in ("memory_chain:n=5,bits=3", "discounting_chain:delay=100", "tmaze:corridor=3"):
        got = gallery.measure(gallery.Row(task, "-", episodes=5))
        assert got["solution"] == pytest.approx(envs.optimum(task))
