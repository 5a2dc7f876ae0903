"""The YAML files of this folder, read: options with their comments, and blocks of options by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import AliasToken

from configs.files import read_text
from configs.options import Option, shown


def parse(path: Path, aliases: bool = True) -> CommentedMap:
    """One YAML file whose top is a mapping; one with nothing but comments is an empty mapping.

    Without `aliases`, which a few lines can unfold to millions of entries, one is an error.
    """
    text = read_text(path, 1 << 18)
    if text.count("[") + text.count("{") > 1000:  # which ruamel takes quadratic time for
        raise ValueError(f"{path} holds more brackets than any configuration.")
    try:
        if not aliases and any(isinstance(token, AliasToken) for token in YAML().scan(text)):
            raise ValueError(f"{path} holds an alias (*name), which this program writes into no such file.")
        tree = _loaded(text)
    except (YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise ValueError(f"{path}: expected a mapping of names to values, got {type(tree).__name__}.")
    return tree


@functools.lru_cache(maxsize=16)
def _loaded(text: str) -> Any:
    """The tree of a text, which nobody changes: a process reads the same few files at every turn."""
    return YAML().load(text)


def options(folder: Path) -> dict[str, Option]:
    """Dotted key -> option, in the order of `defaults.yaml`; its comment stands at the end of its line."""
    path = folder / "defaults.yaml"
    tree = parse(path)
    comments = _comments(tree)
    return {
        key: Option.of(key, _plain(value, key), comments[key])
        for key, value in flatten(tree, str(path)).items()
    }


def blocks(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Block name -> dotted key -> value as YAML gave it, for one file of blocks."""
    path = folder / f"{name}.yaml"
    found: dict[str, dict[str, Any]] = {}
    for block, tree in parse(path).items():
        source = f"{path}, block '{block}'"
        if not isinstance(tree, Mapping | None):
            raise ValueError(f"{source}: expected options, got {shown(tree)}.")
        found[str(block)] = flatten(tree or {}, source)
    return found


def flatten(tree: Mapping[Any, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value as YAML gave it. A key may itself be dotted."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ValueError(f"{source}: expected names as keys, got {shown(key)} under '{prefix[:-1]}'.")
        if isinstance(value, Mapping):
            if not value:
                raise ValueError(
                    f"{source}: the group '{prefix}{key}' is empty; give it options or take it out."
                )
            leaves.update(flatten(value, source, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _plain(value: Any, key: str) -> bool | int | float | str:
    """A default in a built-in type; ruamel's own types carry layout along."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise ValueError(f"the default of '{key}' must be a bool, int, float or str, got {shown(value)}.")


def _comments(tree: CommentedMap, prefix: str = "") -> dict[str, str]:
    """Dotted key of each option -> the comment at the end of its line, and on those right below it."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, CommentedMap):
            found |= _comments(value, f"{prefix}{key}.")
        else:
            token = tree.ca.items.get(key, (None, None, None))[2]
            lines = token.value.partition("\n\n")[0].splitlines() if token else ()
            found[f"{prefix}{key}"] = " ".join(line.strip().lstrip("#").strip() for line in lines)
    return found
