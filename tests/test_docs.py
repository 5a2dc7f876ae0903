"""README and docs: their commands are accepted, what they name exists, the table of imports is true."""

import ast
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import configs
import run
from configs.command_line import Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = {
    "--faults",
    "--faults-json",
    "--minutes",
    "--key.path",
    "--signal",
    "--no-deps",
    "--nnodes",
    "--nproc-per-node",
    "--no-python",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--max-restarts",
}  # of pytest, sbatch, pip, torchrun
EXAMPLES = {"gru"}  # a backbone that a page shows how to add
NAMED = re.compile(r"[\w./-]+\.(?:py|md|yaml|json|png)")


def code(page: Path) -> Iterator[str]:
    """What a page shows as code on one line: indented lines with those that continue them, and spans."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.sub(r"\n {5,}(?=\S)", " ", text).splitlines()
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))


def commands(page: Path) -> Iterator[str]:
    """The words after run.py in each command of a page, without comments; with what may be left out."""
    for line in code(page):
        found = re.match(r"\s*(?:taskset -c 0 )?python (?:\S*/)?run\.py( .*|$)", line)
        if found:
            yield re.sub(r"\[OPTION\]|\[(--[^\]]+)\]", r"\1", found[1].partition(" #")[0]).strip()


@functools.cache
def parser(name: str) -> Parser:
    """The parser of a command as run.py makes it."""
    found = run.COMMANDS[name]
    command = importlib.import_module(found) if isinstance(found, str) else found
    made = Parser(name, "")
    command.arguments(made)
    return made


@functools.cache
def options() -> set[str]:
    """The options of all commands."""
    return {
        option for name in run.COMMANDS for option in re.findall(r"--[\w.-]+", parser(name).format_help())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_accepted(page: Path) -> None:
    """By the command's own parser, and their options by the configuration."""
    for line in commands(page):
        words = shlex.split(line)
        if words in ([], ["--help"]) or (len(words) == 1 and words[0] in run.COMMANDS):
            continue  # the name of a command
        name = "train" if words[0].startswith("-") else words.pop(0)
        assert name in run.COMMANDS, f"{page.name}: {line}"
        try:
            args = parser(name).parse(words)
        except SystemExit:
            pytest.fail(f"{page.name}: python run.py {line}")
        if not hasattr(args, "configs"):
            continue
        task, backbone = (args.overrides.pop(key, None) for key in ("task", "backbone"))
        backbones = getattr(args, "backbones", None) or [backbone or "s4wm"]
        assert {*backbones} <= {*configs.backbones(), *EXAMPLES}, f"{page.name}: {line}"
        if not {*backbones} & EXAMPLES:
            configs.load(getattr(args, "task", task), backbones[0], args.configs, args.overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_a_page_names_exist(page: Path) -> None:
    """Those of a command line, and keys of the configuration, whole or cut off behind a dot."""
    named = {word for line in code(page) for word in re.findall(r"(?<!\S)--[a-z][\w.-]+", line)}
    unknown = {name for name in named - OTHERS if name not in options()}
    keys = {option.key for option in configs.describe()}
    groups = {key.split(".")[0] for key in keys if "." in key} - {path.name for path in ROOT.iterdir()}
    for span in re.findall(r"`(\w+\.[\w.]+)", page.read_text(encoding="utf-8")):
        if span.split(".")[0] in groups and not any(key.startswith(span) for key in keys):
            unknown.add(span)
    assert not unknown, f"{page.name} names {sorted(unknown)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Those with a folder of the repository in front, and modules by their name."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    modules = {path.name for place in ("*.py", "[a-z]*/**/*.py") for path in ROOT.glob(place)}  # not .venv's
    spans = re.findall(r"`([^`\s]+)`", page.read_text(encoding="utf-8"))
    for name in filter(NAMED.fullmatch, spans):
        if name.split("/")[0] in folders and "/" in name:
            assert (ROOT / name).exists(), f"{page.name} names {name}"
        elif name.endswith(".py") and "/" not in name:
            assert name in modules, f"{page.name} names {name}"


def imported(folder: str) -> set[str]:
    """The packages that the files of a row of the table import, Python's own left out."""
    files = [ROOT / folder] if folder.endswith(".py") else (ROOT / folder).rglob("*.py")
    found: set[str] = set()
    for path in files:
        if folder == "agent/" and "run" in path.relative_to(ROOT / "agent").parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names)


def rows() -> dict[str, tuple[set[str], set[str]]]:
    """Folder -> imports of ours and of others, as CONTRIBUTING.md has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([\w/.]+)` \|(.*)\|(.*)\|$", text, flags=re.MULTILINE)
    return {folder: (words(ours), words(others)) for folder, ours, others in lines}


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_the_table_of_imports_has_a_row_for_each_folder() -> None:
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("*/__init__.py")} - {"tests/"}
    assert rows().keys() == folders | {"agent/run/", "run.py"}


@pytest.mark.parametrize("folder", rows())
def test_the_table_of_imports_is_true(folder: str) -> None:
    ours = {name.rstrip("/") for name in rows() if name.count("/") < 2} | {"run"}
    found = imported(folder) - ({folder.rstrip("/")} if folder.count("/") < 2 else set())
    said_ours, said_others = rows()[folder]
    assert found & ours == said_ours
    missing = said_others - found
    assert found - ours <= said_others
    assert not missing or folder == "envs/", f"not imported: {missing}"  # envs/ loads some by their names
