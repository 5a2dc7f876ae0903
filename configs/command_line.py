"""What the commands of run.py share: the parser, its options, and how a mistake ends one."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import configs

PATIENCE = 5.0
"""Seconds in which torchrun ends the other ranks of a job, once one has ended."""
Work = Callable[[], tuple[Mapping[str, Any], str]]
"""What a command does after its arguments were checked; its result, and the text that a person reads."""


class Command(Protocol):
    """A module (or a class) that is a command of run.py; the first line of its docstring is its description.

    A ValueError of `prepare` is a user's mistake, and nothing may have been created then; so is
    `configs.Mistake` at any time.
    """

    __doc__: str | None

    @staticmethod
    def arguments(parser: Parser) -> None:
        """Add the command's arguments."""

    @staticmethod
    def prepare(args: argparse.Namespace) -> Work:
        """Check the arguments, and return what is to be done. `args.overrides` are the options given."""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option, in place of a screenful of usage."""

    def __init__(self, command: str, description: str) -> None:
        width = min(shutil.get_terminal_size((110, 24)).columns, 110)
        super().__init__(
            prog=f"run.py {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=width),
        )
        self.option_keys: list[str] = []
        self.add_argument("--json", action="store_true", help="print one JSON object as the last line")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The command's arguments; `overrides` are the options given, dotted key -> text."""
        self.usage = self._usage()
        args, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].split("=")[0]
            hint = configs.did_you_mean(name, self._option_string_actions)
            self.error(
                f"unknown option '{name}'.{hint}" if name.startswith("-") else f"unexpected word '{name}'."
            )
        given = vars(args)
        words = [word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")]
        args.twice = [
            f"option '--{key}' is given twice; the last one counts, {given[key]}"
            for key in self.option_keys
            if words.count(key) > 1
        ]
        args.overrides = {key: given[key] for key in self.option_keys if key in given}
        args.argv = list(argv)
        return args

    def error(self, message: str) -> NoReturn:
        let_the_first_say_it()
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"{self.prog}: {message}{end} All options: python {self.prog} --help\n")

    def _usage(self) -> str:
        """argparse's own usage, with one word for all the options of `defaults.yaml`."""
        formatter = self._get_formatter()
        own = [action for action in self._actions if action.dest not in self.option_keys]
        formatter.add_usage(None, own, [], prefix="python ")
        options = " [--key.path VALUE ...]" if self.option_keys else ""
        return formatter.format_help().strip().replace("%", "%%") + options


def add_configuration(
    parser: Parser,
    without: Sequence[str] = (),
    size: str = "small, pixels for a task that shows pictures, or 12m where there is a GPU",
) -> None:
    """The presets, and one argument for each option of `defaults.yaml`, in its groups.

    `without` some options, or groups of them; `size` is what is taken where no preset is named.
    """
    parser.add_argument(
        "--configs",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"presets merged from left to right, of {', '.join(configs.presets())} [{size}]",
    )
    groups: dict[str, Any] = {
        "": parser.add_argument_group(
            "run",
            "Values in brackets, here and below, are those of configs/defaults.yaml. The size preset, the "
            "backbone and the task change some: a run's config.yaml has the values in force.",
        )
    }
    for option in configs.describe():
        if configs.is_free(option.key, without):
            continue
        top = option.key.split(".")[0] if "." in option.key else ""
        if top not in groups:
            groups[top] = parser.add_argument_group(top)
        kind = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT"}[type(option.default)]
        if option.choices:
            kind = f"{{{','.join(option.choices)}}}"
        allowed = f"; {option.allowed}" if option.allowed and not option.choices else ""
        text = f"{option.meaning}{allowed} [{configs.typed(option.default)}]".replace("%", "%%")
        groups[top].add_argument(
            f"--{option.key}", dest=option.key, default=argparse.SUPPRESS, metavar=kind, help=text
        )
        parser.option_keys.append(option.key)


def add_run(parser: Parser, what: str = "folder of the run") -> None:
    """The folder that a command works on: a word, or `--logdir`; `run_of` tells which was given."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help=what)
    if "logdir" not in parser.option_keys:
        parser.add_argument("--logdir", type=Path, metavar="DIR", help="the same")


def run_of(args: argparse.Namespace) -> Path:
    """The folder given to a command with `add_run`; a ValueError unless there is exactly one."""
    given = [folder for folder in (args.run, getattr(args, "logdir", None)) if folder is not None]
    if len(given) != 1:
        raise ValueError(f"name one folder, as a word or after --logdir; got {len(given)}.")
    return given[0]


def add_device(parser: Parser) -> None:
    """The device of a command that loads a trained agent."""
    parser.add_argument("--device", metavar="NAME", help="auto, cpu or cuda [the run's]")


def add_checkpoint(parser: Parser) -> None:
    """Which checkpoint of a run a command loads; without, the newest."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=count, metavar="N", help="of an older checkpoint that is still there")
    which.add_argument("--best", action="store_true", help="the checkpoint of the highest return evaluated")


def add_episodes(parser: Parser, data: str, context: str, most: int) -> None:
    """Which episodes on disk a command takes, how many at most, and how much of them a model observes."""
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    parser.add_argument("--context", type=count, metavar="N", help=f"frames observed {context}")
    parser.add_argument(
        "--episodes", type=count, default=most, metavar="N", help=f"how many at most [{most}]"
    )


def add_seed(parser: Parser, meaning: str, default: int | None = None, name: str = "--seed") -> None:
    """The option of every command that plays episodes; a configured run has a seed of its own."""

    def not_negative(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got '{text}'")
        return int(text)

    parser.add_argument(name, type=not_negative, default=default, metavar="N", help=f"seed {meaning}")


def add_video(parser: Parser, of: str) -> None:
    """The option of every command that can write a video."""
    text = f"write a video of {of}, as .gif or .mp4"
    parser.add_argument("--video", type=Path, metavar="FILE", help=text)


def count(text: str) -> int:
    """A positive whole number as typed: 3, 1e5, 1_000_000."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number >= 1 or number != number // 1:  # neither is true of inf and nan
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got '{text}'")
    return int(number)


def place() -> tuple[int, int]:
    """Number of this process among those that torchrun started, and how many they are; 0 and 1 elsewhere."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def let_the_first_say_it() -> None:
    """Wait on the other ranks: if the first one says the same, torchrun ends them meanwhile."""
    time.sleep(PATIENCE * (place()[0] > 0))


@contextmanager
def exit_2_on(mistake: type[ValueError]) -> Iterator[None]:
    """Within, such an error becomes a message and exit code 2."""
    try:
        yield
    except mistake as error:
        let_the_first_say_it()
        print(f"run.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error
