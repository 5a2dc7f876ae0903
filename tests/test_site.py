"""The site that `make docs` builds: every page is in it, and what its API names is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = re.findall(r"\b[\w/]+\.md\b", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2])


def api() -> list[str]:
    """The names in the table of .ci/pages.py."""
    for node in ast.parse((ROOT / ".ci" / "pages.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "API":
            found = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            return sorted(name for name in found if re.fullmatch(r"\w+(\.\w+)+", str(name)))
    raise AssertionError("no API in .ci/pages.py")


def test_every_page_is_in_the_navigation() -> None:
    made = {"index.md", "api.md"}
    assert sorted({*PAGES} - made) == sorted(
        str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")
    )
    assert len(PAGES) == len({*PAGES})


@pytest.mark.parametrize("name", api())
def test_what_the_api_names_is_there_and_documented(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute).__doc__
