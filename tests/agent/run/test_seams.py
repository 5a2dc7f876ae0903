"""The size that a run has where none is named, and what draws its symbols."""

from collections.abc import Sequence

import pytest

import configs
from agent.run.seams import configure, picture_of


@pytest.mark.parametrize(
    ("task", "mode", "presets", "same_as"),
    [
        ("memory_chain", "sync", [], "small"),
        ("memory_chain:observation=pixels", "sync", [], "pixels"),
        ("memory_chain:observation=pixels", "async", [], "pixels"),
        ("memory_chain", "async", [], "small"),
        ("memory_chain:observation=pixels", "sync", ["debug"], "debug"),
    ],
)
def test_the_size_follows_what_is_observed(
    task: str, mode: str, presets: Sequence[str], same_as: str
) -> None:
    """Unless one is named; environments in processes of their own are asked there."""
    overrides = {"device": "cpu", "envs.mode": mode}
    expected = configs.load(task, "s4wm", [same_as], overrides)
    assert configs.differences(expected, configure(task, "s4wm", presets, overrides)) == {}


def test_symbols_are_drawn_by_tasks_that_can() -> None:
    """A task that a program made cannot be asked, as no name makes its environment again."""
    assert picture_of("distracting_memory:observation=symbols", ["tiles", "heading"]) is not None
    assert picture_of("distracting_memory:observation=symbols", ["image"]) is None
    assert picture_of("python:Mine", ["tiles"]) is None
