"""Configuration: YAML blocks and dotted overrides merged, in order, into one immutable, typed tree.

The order, later ones winning: `defaults.yaml`, the backbone's block of `backbones.yaml`, a size preset of
`sizes.yaml`, the task's block of `tasks.yaml`, further presets from left to right, overrides. `defaults.yaml`
alone says which options exist, of which type, what they mean and what they may be (in its comments); a block
may nest its keys or write them with dots. What the backbone's block sets makes the backbone what its name
says, so that nothing after it may set it otherwise. In a preset or a task's block a variant's name stands for
its model's group, for this backbone alone: `s4wm_s4.width` is its `s4wm.width`.

Every user's mistake is a ValueError that names the key, what was expected, what was given, and where.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from configs import blocks
from configs.nearest import did_you_mean
from configs.options import Option, listed, shown, typed
from configs.tree import Config

__all__ = [
    "Config",
    "Mistake",
    "Option",
    "backbones",
    "describe",
    "did_you_mean",
    "differences",
    "dump",
    "inert",
    "is_free",
    "label",
    "load",
    "override",
    "presets",
    "read",
    "resume",
    "typed",
]

DIRECTORY = Path(__file__).parent
CHOOSING = ("task", "backbone")  # these choose the blocks, so no block may set them
FREE_TO_CHANGE = (
    *("steps", "device", "threads", "warning_signal", "logdir"),
    *("envs.mode", "envs.timeout", "envs.restarts", "actors", "eval", "log", "checkpoint"),
)
"""Options, and groups of them, that may change when a run goes on: what is learned does not."""

NEEDS: dict[str, tuple[Any, ...]] = {
    "replay.burn_in": ("replay.initial_state", "burn_in"),
    "replay.max_age": ("replay.initial_state", "burn_in"),
    "replay.state_every": ("replay.initial_state", "stored", "burn_in"),
    "envs.timeout": ("envs.mode", "async"),
    "envs.restarts": ("envs.mode", "async"),
    "actors.lag": ("actors.count",),
    "explore.scale": ("explore.networks",),
    "explore.share": ("explore.networks",),
    "explore.bonus": ("explore.networks",),
    "heads.product": ("heads.action", True),
    "s4wm.attention.heads": ("s4wm.attention.layers",),
    "s4wm.attention.memory": ("s4wm.attention.layers",),
    "imagination.count": ("imagination.starts", "random", "last"),
    "recall.positions": ("recall.scale",),
    "actor_critic.slow_rate": ("actor_critic.slow_regulariser",),
    **{f"{model}.unimix": (f"{model}.classes",) for model in ("s4wm", "rssm", "tssm")},
}
"""Option -> another one, and the values of it with which it does something: none listed, all but 0."""
BEFORE = {"heads.product": False, "heads.reward_scale": 1.0}
"""Option -> what code did that had no such option, where its default is another."""


class Mistake(ValueError):  # noqa: N818 (the user's, not the program's)
    """A user's mistake that shows only while a command is at work: its message, and exit code 2."""


def load(
    task: str | None = None,
    backbone: str | None = None,
    presets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    cuda_available: bool = False,
    pictures: bool = False,
) -> Config:
    """Merge everything that configures one run.

    Args:
        task: the task's name. The block named like its part before ':' is merged, then the one named like
            the whole of it, where there are such blocks. None: the default task.
        backbone: a block of `backbones.yaml`. None: the default backbone.
        presets: names of `sizes.yaml`. The first is the size and goes before the task's block, the others
            after it. With none, the size is `12m` with a CUDA GPU; without, `pixels` for a task with pictures
            and `small` for others.
        overrides: dotted key -> value, or the text of one as typed on a command line.
        cuda_available: whether this machine has a CUDA GPU.
        pictures: whether the task is observed in pictures.

    Raises:
        ValueError: an unknown backbone, preset or key, a value that its option does not take, or one that
            would make the backbone another.
    """
    options = blocks.options(DIRECTORY)
    task = str(options["task"].default) if task is None else task
    backbone = str(options["backbone"].default) if backbone is None else backbone
    files = ("backbones", "sizes", "tasks")
    of_backbone, of_size, of_task = (_blocks(name, options, backbone) for name in files)
    names = list(presets) or ["12m" if cuda_available else "pixels" if pictures else "small"]
    own = _choose("backbone", backbone, of_backbone)
    layers = [_choose("preset", names[0], of_size)]
    layers += [of_task[name] for name in dict.fromkeys((task.split(":")[0], task)) if name in of_task]
    layers += [_choose("preset", name, of_size) for name in names[1:]]
    layers.append(_checked(overrides or {}, options, "the command line"))
    merged = {key: option.default for key, option in options.items()} | own
    for layer in layers:
        for key in own.keys() & layer.keys():
            if layer[key] != own[key]:
                raise ValueError(_another_backbone(backbone, key, layer[key], of_backbone))
        merged |= layer
    return Config(_nested(merged | {"task": task, "backbone": backbone}))


def override(config: Config, overrides: Mapping[str, Any], source: str = "the command line") -> Config:
    """The same configuration with the values of some dotted keys changed; raises as `load` does."""
    checked = _checked(overrides, blocks.options(DIRECTORY), source)
    return Config(_nested(config.flat() | checked))


def dump(config: Config) -> str:
    """The configuration as YAML, which `read` takes back."""
    text = io.StringIO()
    YAML().dump(config.to_dict(), text)
    return text.getvalue()


def read(path: str | Path, fill: bool = False) -> Config:
    """Read what `dump` wrote; with `fill` an option that it lacks has the value that earlier code stands for
    (its default, or that of `BEFORE`), which stderr is told.

    Raises:
        ValueError: the file holds an unknown option, lacks one, or holds a value that its option does not
            take: it was written by another version of this code, or edited.
    """
    options = blocks.options(DIRECTORY)
    leaves = blocks.flatten(blocks.parse(Path(path), aliases=False), str(path))
    saved = _checked(leaves, options, str(path), choosing=True)
    missing = [key for key in options if key not in saved]
    if missing and fill:
        filled = {key: BEFORE.get(key, options[key].default) for key in missing}
        taken = ", ".join(f"{key} {typed(value)}" for key, value in filled.items())
        print(f"{path} is of earlier code; taken as it was then: {taken}", file=sys.stderr)
        saved |= filled
    elif missing:
        raise ValueError(
            f"{path} lacks {listed(missing)}: expected every option of defaults.yaml. It was written by "
            f"another version of this code, which goes on with it: its commit is in the last line of "
            f"sessions.jsonl."
        )
    return Config(_nested({key: saved[key] for key in options}))


def differences(saved: Config, now: Config) -> dict[str, str]:
    """Key of each option that differs -> a line that says how."""
    old, new = saved.flat(), now.flat()
    changed = [key for key in new if old[key] != new[key]]
    return {key: f"{key}: saved {old[key]!r}, now {new[key]!r}" for key in changed}


def is_free(key: str, free: Iterable[str] = FREE_TO_CHANGE) -> bool:
    """Whether an option may change when a run goes on."""
    return any(key == each or key.startswith(f"{each}.") for each in free)


def resume(
    saved: Config,
    task: str | None,
    backbone: str | None,
    presets: Sequence[str],
    overrides: Mapping[str, Any],
) -> Config:
    """The configuration with which a run goes on: what is not named is as it was; raises as `load` does.

    Presets are named as a whole: with them the configuration is merged anew.
    """
    task, backbone = task or saved.task, backbone or saved.backbone
    if presets:
        return load(task, backbone, presets, overrides)
    named = override(saved, overrides).to_dict()
    return Config(named | {"task": task, "backbone": backbone})


def inert(config: Config, named: Iterable[str]) -> list[str]:
    """A line for each of the named options that does nothing in this configuration."""
    model, leaves = config.backbone.partition("_")[0], config.flat()
    others = {name.partition("_")[0] for name in backbones()} - {model}
    groups_of_s4wm = {key.split(".")[1] for key in leaves if key.startswith("s4wm.") and key.count(".") == 2}
    layers = groups_of_s4wm - {"attention"}
    said = []
    for key in named:
        groups = key.split(".")
        needs = next((need for start, need in NEEDS.items() if is_free(key, [start])), None)
        if groups[0] in others:
            why = f"the backbone is '{config.backbone}'"
        elif groups[0] == "s4wm" and groups[1] in layers - {config.s4wm.layer}:
            why = f"the layer is {config.s4wm.layer}"
        elif key == "optimiser.ssm_lr" and model != "s4wm":
            why = f"backbone '{config.backbone}' has no state-space layers"
        elif key == "envs.restarts" and config.actors.count:
            continue
        elif needs and not (leaves[needs[0]] in needs[1:] if needs[1:] else leaves[needs[0]]):
            why = f"{needs[0]} is {typed(leaves[needs[0]])}"
        else:
            continue
        said.append(f"option '{key}' does nothing here: {why}")
    return said


def describe() -> list[Option]:
    """Every option, in the order of `defaults.yaml`."""
    return list(blocks.options(DIRECTORY).values())


def backbones() -> list[str]:
    """Names that `load(backbone=...)` takes."""
    return list(blocks.blocks(DIRECTORY, "backbones"))


def label(backbone: str) -> str:
    """A backbone's name in a table: with its layer in brackets where the name does not say it.

    What follows the name behind a space, such as a comparison's options, follows here too.
    """
    name, space, options = backbone.partition(" ")
    own = blocks.blocks(DIRECTORY, "backbones").get(name, {})
    layer = next((str(value) for key, value in own.items() if key.endswith(".layer")), "")
    return backbone if not layer or name.endswith(f"_{layer}") else f"{name} ({layer}){space}{options}"


def presets() -> list[str]:
    """Names that `load(presets=...)` takes."""
    return list(blocks.blocks(DIRECTORY, "sizes"))


def _blocks(name: str, options: Mapping[str, Option], backbone: str) -> dict[str, dict[str, Any]]:
    """Block name -> its checked options, for one file of blocks; all are checked, not only those in use.

    What stands under another variant's name than `backbone` is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    variants = {name for name in backbones() if "_" in name}
    for block, own in blocks.blocks(DIRECTORY, name).items():
        shared: dict[str, Any] = {}
        of_variant: dict[str, Any] = {}
        for key, given in own.items():
            group, _, rest = key.partition(".")
            model = group.partition("_")[0]
            option = {f"{model}.{rest}" if group in variants else key: given}
            value = _checked(option, options, f"{DIRECTORY / name}.yaml, block '{block}'")
            if group == backbone and group in variants:
                of_variant |= value
            elif group not in variants:
                shared |= value
        found[block] = shared | of_variant
    return found


def _choose(what: str, name: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in known:
        raise ValueError(
            f"unknown {what} '{name}'.{did_you_mean(name, known)} Expected one of {listed(known)}."
        )
    return known[name]


def _another_backbone(backbone: str, key: str, value: Any, known: Mapping[str, dict[str, Any]]) -> str:
    """Why `key` cannot have this value, with the backbones that it makes."""
    model = backbone.partition("_")[0]
    right = [name for name, own in known.items() if own.get(key) == value and name.partition("_")[0] == model]
    instead = f"use --backbone {' or '.join(right)}" if right else "use another --backbone"
    return (
        f"option '{key}' belongs to what backbone '{backbone}' is, where it is "
        f"{typed(known[backbone][key])}; for {typed(value)} {instead}."
    )


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
    values: Mapping[str, Any], options: Mapping[str, Option], source: str, choosing: bool = False
) -> dict[str, Any]:
    """The values in their options' types; `choosing` allows task and backbone among them."""
    for key, value in values.items():
        if key in CHOOSING and not choosing:
            raise ValueError(
                f"{source}: '{key}' chooses the blocks to merge and cannot be set here; use --{key}."
            )
        if key not in options:
            inside = [known for known in options if known.startswith(f"{key}.")]
            if inside:
                raise ValueError(
                    f"{source}: '{key}' is a group of options, got {shown(value)}; set {listed(inside)}."
                )
            raise ValueError(f"{source}: unknown option '{key}'.{did_you_mean(key, options)}")
    return {key: options[key].value(value, source) for key, value in values.items()}
