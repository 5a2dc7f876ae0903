"""docs/results: its table and README's are what the data say, and the data that its pages name are there."""

import json
import re
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "docs" / "results"
README = RESULTS.parents[1] / "README.md"
TEXT = {path.name: path.read_text(encoding="utf-8") for path in RESULTS.glob("*.md")}


def rows(text: str) -> list[list[str]]:
    """The cells of the table rows that end in links to data."""
    lines = re.findall(r"^\| (.*\.json\)) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def recorded(cell: str, backbone: str) -> tuple[list[float], int]:
    """Mean, interval and steps of a backbone in a cell's files."""
    for link in re.findall(r"\(([\w-]+)\.json\)", cell):
        record = json.loads((RESULTS / f"{link}.json").read_text(encoding="utf-8"))["results"]
        if backbone in record:
            got = record[backbone]
            return [got["return_mean"], *got["interval"]], got["steps"]
    raise AssertionError(f"no {backbone} in {cell}")


def test_the_table_is_what_the_data_say() -> None:
    found = rows(TEXT["README.md"])
    assert len(found) >= 5
    for task, steps, *cells, _, data in found:
        for cell, backbone in zip(cells, ("s4wm", "rssm"), strict=True):
            said = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell.partition("(")[0])]
            numbers, taken = recorded(data, backbone)
            half = 0.00501 if "." in cell else 0.501  # of the last place that is shown
            assert said == pytest.approx(numbers, abs=half), f"{task}, {backbone}"
            assert int(steps.replace(",", "")) == taken, task


def test_the_front_page_shows_rows_of_that_table() -> None:
    cells = r"\| ([\d,]+) \| ([^|]*\]\S*)(?: \(\d\))? \| ([^|]*\]) \|"
    shown = re.findall(cells, README.read_text(encoding="utf-8"))
    assert len(shown) >= 5
    assert {*shown} <= {*re.findall(cells, TEXT["README.md"])}


def test_data_that_a_page_names_are_there_and_none_of_earlier_code_are_left_over() -> None:
    named = {name for text in TEXT.values() for name in re.findall(r"[`(]([\w/.-]+\.json)[`)]", text)}
    there = {str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*.json")}
    assert not named - there
    assert {name for name in there if name.startswith("earlier/")} <= named
