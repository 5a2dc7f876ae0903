"""Configuration: YAML blocks and dotted overrides merged, in order, into one immutable, typed tree.

The order, later ones winning: `defaults.yaml`, the backbone's block of `backbones.yaml`, a size preset of
`sizes.yaml`, the task's block of `tasks.yaml`, further presets from left to right, overrides. `defaults.yaml`
alone says which options exist, of which type, and (in its comments) what they mean; a block may nest its keys
or write them with dots.

Every user's mistake is a ValueError that names the key, what was expected, what was given, and where.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from configs.nearest import did_you_mean
from configs.tree import Config
from configs.values import as_type_of, listed, outside, plain, shown, type_name, typed

__all__ = [
    "Config",
    "Option",
    "backbones",
    "describe",
    "did_you_mean",
    "differences",
    "headings",
    "load",
    "override",
    "presets",
    "read",
    "save",
    "typed",
]

DIRECTORY = Path(__file__).parent
CHOOSING = ("task", "backbone")  # these choose the blocks, so no block may set them
FREE_TO_CHANGE = (
    "steps",
    "device",
    "threads",
    "logdir",
    "envs.timeout",
    "envs.restarts",
)  # a run may be resumed with other values of these
_COMMENT = re.compile(r"""(?:"[^"]*"|'[^']*'|(?<!\s)\#|[^"'#])*?\s(?P<comment>\#.*)$""")


class Option(NamedTuple):
    """One option as `--help` shows it: dotted key, default, and the comment that stands beside it."""

    key: str
    default: Any
    meaning: str


def load(
    task: str | None = None,
    backbone: str | None = None,
    presets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    cuda_available: bool = False,
    directory: str | Path | None = None,
) -> Config:
    """Merge everything that configures one run.

    Args:
        task: the task's name. The block named like its part before ':' is merged, then the one named like
            the whole of it, where there are such blocks. None: the default task.
        backbone: a block of `backbones.yaml`. None: the default backbone.
        presets: names of `sizes.yaml`. The first is the size and goes before the task's block, the others
            after it. With none, the size is `12m` with a CUDA GPU and `cpu` without.
        overrides: dotted key -> value, or the text of one as typed on a command line.
        cuda_available: whether this machine has a CUDA GPU.
        directory: where the YAML files are. None: this package.

    Raises:
        ValueError: an unknown backbone, preset or key, or a value of another type than the default's.
    """
    folder = _folder(directory)
    defaults = _defaults(folder)
    of_backbone, of_size, of_task = (_blocks(folder, n, defaults) for n in ("backbones", "sizes", "tasks"))
    task = defaults["task"] if task is None else task
    backbone = defaults["backbone"] if backbone is None else backbone
    names = list(presets) or ["12m" if cuda_available else "cpu"]
    layers = [_choose("backbone", backbone, of_backbone), _choose("preset", names[0], of_size)]
    layers += [of_task[name] for name in dict.fromkeys((task.split(":")[0], task)) if name in of_task]
    layers += [_choose("preset", name, of_size) for name in names[1:]]
    layers.append(_checked(overrides or {}, defaults, "the command line"))
    merged = dict(defaults)
    for layer in layers:
        merged.update(layer)
    return Config(_nested(merged | {"task": task, "backbone": backbone}))


def override(config: Config, overrides: Mapping[str, Any], source: str = "the command line") -> Config:
    """The same configuration with some dotted keys changed; types follow the values it has now."""
    flat = config.flat()
    return Config(_nested(flat | _checked(overrides, flat, source)))


def save(config: Config, path: str | Path) -> None:
    """Write the configuration as YAML, atomically: a reader sees the old file or the new one, whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        YAML().dump(_in_flow_style(config.to_dict()), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str | Path, directory: str | Path | None = None) -> Config:
    """Read what `save` wrote.

    Raises:
        ValueError: the file holds an unknown option, lacks one, or holds a value of another type: it was
            written by another version of this code, or edited.
    """
    defaults = _defaults(_folder(directory))
    leaves = _flatten(_parse(Path(path)), str(path))
    saved = _checked(leaves, defaults, str(path), choosing=True)
    missing = [key for key in defaults if key not in saved]
    if missing:
        raise ValueError(
            f"{path} lacks {listed(missing)}: expected every option of defaults.yaml. It was written by "
            f"another version of this code; add them to the file, or use the version that wrote it."
        )
    return Config(_nested({key: saved[key] for key in defaults}))


def differences(saved: Config, now: Config, ignore: Iterable[str] = FREE_TO_CHANGE) -> list[str]:
    """One line for each option that differs, except those that may change when a run is resumed."""
    old, new = saved.flat(), now.flat()
    kept = [key for key in new if key not in tuple(ignore)]
    return [f"{key}: saved {old[key]!r}, now {new[key]!r}" for key in kept if old[key] != new[key]]


def describe(directory: str | Path | None = None) -> list[Option]:
    """Every option with its default and its meaning, in the order of `defaults.yaml`.

    The meaning is the comment at the end of the option's line (with the lines that continue it in the same
    column), else the comment lines right above it; '' where there is neither.
    """
    path = _folder(directory) / "defaults.yaml"
    meanings = _meanings(path)
    return [Option(key, default, meanings[key]) for key, default in _defaults(path.parent).items()]


def headings(directory: str | Path | None = None) -> dict[str, str]:
    """The top-level groups of options and what their comments say of them."""
    path = _folder(directory) / "defaults.yaml"
    meanings = _meanings(path)
    return {key: meanings[key] for key, value in _parse(path).items() if isinstance(value, Mapping)}


def backbones(directory: str | Path | None = None) -> list[str]:
    """Names that `load(backbone=...)` takes."""
    return list(_parse(_folder(directory) / "backbones.yaml"))


def presets(directory: str | Path | None = None) -> list[str]:
    """Names that `load(presets=...)` takes."""
    return list(_parse(_folder(directory) / "sizes.yaml"))


def _folder(directory: str | Path | None) -> Path:
    return DIRECTORY if directory is None else Path(directory)


def _parse(path: Path) -> CommentedMap:
    """One YAML file whose top is a mapping; one with nothing but comments is an empty mapping."""
    try:
        tree = YAML().load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise ValueError(f"{path}: expected a mapping of names to values, got {type(tree).__name__}.")
    return tree


def _defaults(folder: Path) -> dict[str, Any]:
    """Dotted key -> default, as plain Python values: the list of all options and their types."""
    path = folder / "defaults.yaml"
    return {key: plain(value, f"{path}, '{key}'") for key, value in _flatten(_parse(path), str(path)).items()}


def _blocks(folder: Path, name: str, defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Block name -> its checked options, for one file of blocks; all are checked, not only those in use."""
    path = folder / f"{name}.yaml"
    blocks: dict[str, dict[str, Any]] = {}
    for block, tree in _parse(path).items():
        source = f"{path}, block '{block}'"
        if not isinstance(tree, Mapping | None):
            raise ValueError(f"{source}: expected options, got {shown(tree)}.")
        blocks[str(block)] = _checked(_flatten(tree or {}, source), defaults, source)
    return blocks


def _choose(what: str, name: str, blocks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in blocks:
        raise ValueError(
            f"unknown {what} '{name}'.{did_you_mean(name, blocks)} Expected one of {listed(blocks)}."
        )
    return blocks[name]


def _flatten(tree: Mapping[Any, Any], source: str, prefix: str = "") -> dict[str, Any]:
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
            leaves.update(_flatten(value, source, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


def _checked(
    values: Mapping[str, Any], defaults: Mapping[str, Any], source: str, choosing: bool = False
) -> dict[str, Any]:
    """The values converted to their defaults' types; `choosing` allows task and backbone among them."""
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key in CHOOSING and not choosing:
            raise ValueError(
                f"{source}: '{key}' chooses the blocks to merge and cannot be set here; use --{key}."
            )
        if key not in defaults:
            inside = [known for known in defaults if known.startswith(f"{key}.")]
            if inside:
                raise ValueError(
                    f"{source}: '{key}' is a group of options, got {shown(value)}; set {listed(inside)}."
                )
            raise ValueError(f"{source}: unknown option '{key}'.{did_you_mean(key, defaults)}")
        try:
            checked[key] = as_type_of(defaults[key], value)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{source}: option '{key}' expects {type_name(defaults[key])} (such as "
                f"{typed(defaults[key])}), got {shown(value)}."
            ) from None
        expected = outside(key, checked[key])
        if expected:
            raise ValueError(f"{source}: option '{key}' expects {expected}, got {shown(value)}.")
    return checked


def _meanings(path: Path) -> dict[str, str]:
    """Dotted key of each option and group -> its comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    meanings: dict[str, str] = {}

    def walk(node: CommentedMap, prefix: str) -> None:
        for key, value in node.items():
            line, column = node.lc.key(key)
            meanings[f"{prefix}{key}"] = _comment(lines, line, column)
            if isinstance(value, CommentedMap):
                walk(value, f"{prefix}{key}.")

    walk(_parse(path), "")
    return meanings


def _comment(lines: Sequence[str], line: int, column: int) -> str:
    """The comment at the end of a line and its continuation, else the one above it in the given column."""
    found: list[str] = []
    match = _COMMENT.match(lines[line])
    if match:
        found.append(match["comment"])
        below = " " * match.start("comment") + "#"
        for text in lines[line + 1 :]:
            if not text.startswith(below):
                break
            found.append(text)
    else:
        for text in reversed(lines[:line]):
            if not text.startswith(" " * column + "#"):
                break
            found.insert(0, text)
    return " ".join(text.strip().lstrip("#").strip() for text in found)


def _in_flow_style(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with its lists marked to be written on one line, `[a, b]`."""
    marked: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            marked[key] = _in_flow_style(value)
        elif isinstance(value, list):
            marked[key] = CommentedSeq(value)
            marked[key].fa.set_flow_style()
        else:
            marked[key] = value
    return marked
