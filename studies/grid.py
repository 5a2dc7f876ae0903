"""Grids of options: the rows of a comparison are its backbones, each with every combination of the values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import configs

OWN = ("task", "backbone", "seed", "steps", "logdir", "threads")
"""Options of which a comparison gives each run its own, or one to all."""


@dataclass(frozen=True)
class Variant:
    """A row of a comparison: a backbone, and what the grid sets of its options, dotted key -> text."""

    backbone: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As tables have it: `s4wm [s4wm.layers=2]`."""
        return name_of(self.folder, self.backbone)

    @property
    def folder(self) -> str:
        """The name of the folder of its runs: `s4wm,s4wm.layers=2`."""
        return ",".join([self.backbone, *(f"{key}={quote(text, '')}" for key, text in self.options.items())])


def name_of(folder: str, backbone: str) -> str:
    """The name of the row whose runs, of this backbone, are in a folder of this name."""
    row, _, options = folder.partition(",")
    return f"{backbone} [{unquote(options)}]" if options and row == backbone else backbone


def variants(backbones: Iterable[str], grid: Mapping[str, Sequence[str]]) -> list[Variant]:
    """Every backbone with the product of the grid's values, the last option's changing first."""
    product = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [Variant(backbone, options) for backbone in backbones for options in product]


def parse(words: Iterable[str], given: Iterable[str]) -> dict[str, list[str]]:
    """Option -> its values, of words `KEY=VALUE,VALUE`; `given` are the options that all runs get.

    Raises:
        ValueError: a word is not of that form, or an option may not be in a grid or is there twice.
    """
    grid: dict[str, list[str]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--grid expects KEY=VALUE,VALUE, such as s4wm.layers=1,2,4; got '{word}'.")
        if key in OWN:
            raise ValueError(f"--grid cannot have '{key}', which a comparison chooses for its runs itself.")
        if key in grid or key in given:
            raise ValueError(f"option '{key}' is given twice; name it once, in --grid with all its values.")
        grid[key] = values.split(",")
    return grid


def check(rows: Iterable[tuple[Variant, configs.Config]]) -> None:
    """Refuse, with a ValueError, options that do nothing for a row, and two rows that are the same."""
    seen: dict[configs.Config, str] = {}
    for variant, config in rows:
        if said := configs.inert(config, variant.options):
            raise ValueError(f"--grid: {said[0]}. Compare '{variant.backbone}' by another command.")
        if config in seen:
            raise ValueError(f"--grid: '{seen[config]}' and '{variant.name}' are the same row.")
        seen[config] = variant.name
