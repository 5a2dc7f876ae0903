"""What the commands of run.py share: a parser with an argument for each option, the exit on a mistake."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import configs


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option, in place of a screenful of usage."""

    def __init__(self, command: str, usage: str, description: str, epilog: str | None = None) -> None:
        width = min(shutil.get_terminal_size((110, 24)).columns, 110)
        super().__init__(
            prog=f"run.py {command}",
            usage=usage,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=width),
        )
        self.option_keys: list[str] = []

    def parse(self, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """The command's own arguments, and the options given: dotted key -> text."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].split("=")[0]
            hint = configs.did_you_mean(name, self._option_string_actions)
            self.error(
                f"unknown option '{name}'.{hint}" if name.startswith("-") else f"unexpected word '{name}'."
            )
        given = vars(args)
        return args, {key: given[key] for key in self.option_keys if key in given}

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"{self.prog}: {message}{end} All options: python {self.prog} --help\n")


def add_json(parser: Parser) -> None:
    """The option of every command that has a result to print."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def add_seed(parser: Parser, meaning: str, default: int | None = None) -> None:
    """The option of every command that plays episodes; a configured run has a seed of its own."""

    def not_negative(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got '{text}'")
        return int(text)

    parser.add_argument("--seed", type=not_negative, default=default, metavar="N", help=f"seed {meaning}")


def add_common(parser: Parser) -> None:
    """The arguments of a command that configures runs: presets, and `--json`."""
    sizes = ", ".join(configs.presets())
    parser.add_argument(
        "--configs",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"presets merged from left to right, of {sizes} [cpu, or 12m where there is a CUDA GPU]",
    )
    add_json(parser)


def add_saved_run(parser: Parser, several: bool = False) -> None:
    """The arguments of a command that works on a run on disk, or on several, as `logdirs`."""
    if several:
        parser.add_argument("logdirs", nargs="+", type=Path, metavar="LOGDIR", help="folders of the runs")
    else:
        parser.add_argument("--logdir", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu or cuda [the run's]")
    add_json(parser)


def add_options(parser: Parser, without: Sequence[str] = ()) -> None:
    """One argument for each option of `defaults.yaml`, in its groups."""
    headings = configs.headings()
    groups: dict[str, Any] = {
        "": parser.add_argument_group(
            "run",
            "Values in brackets, here and below, are those of configs/defaults.yaml. The size preset (cpu or "
            "12m), the backbone and the task change some: a run's config.yaml has the values in force.",
        )
    }
    for key, default, meaning in configs.describe():
        if key in without:
            continue
        top = key.split(".")[0] if "." in key else ""
        if top not in groups:
            groups[top] = parser.add_argument_group(top, headings[top].replace("%", "%%") or None)
        metavar = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT", tuple: "LIST"}.get(
            type(default), "VALUE"
        )
        text = f"{meaning} [{configs.typed(default)}]".replace("%", "%%")
        groups[top].add_argument(f"--{key}", dest=key, default=argparse.SUPPRESS, metavar=metavar, help=text)
        parser.option_keys.append(key)


@contextmanager
def mistakes_exit_2() -> Iterator[None]:
    """Around code that checks what the user typed: its ValueError becomes a message and exit code 2."""
    try:
        yield
    except ValueError as error:
        print(f"run.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def count(text: str) -> int:
    """A positive whole number as typed: 3, 1e5, 1_000_000."""
    number = float(text)
    if not number >= 1 or number != number // 1:  # neither is true of inf and nan
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got '{text}'")
    return int(number)
