"""docs/troubleshooting.md quotes what the code can say, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FEWEST = 20  # characters that a text says itself; one that is all placeholders would match anything
MOST = 35  # characters that a value in a text may have; longer ones are texts too
OTHERS = {"'MjModel' object has no attribute 'flex_vertedge'"}  # what other packages say in ours


def pattern(node: ast.AST, value: str) -> str:
    """What a text may look like, with `value` for what is put in; empty if it says too little itself."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    said = [text for text in texts if isinstance(text, str)]
    if sum(map(len, said)) < FEWEST:
        return ""
    escaped = (value if text is None else re.escape(re.sub(r"\s+", " ", text)) for text in texts)
    return "".join(escaped)


@pytest.fixture(scope="module")
def patterns() -> list[re.Pattern[str]]:
    files = [path for room in ("agent", "configs", "envs", "replay") for path in (ROOT / room).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = [node for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant)]
    found = {pattern(node, value) for node in texts for value in ("(.*)", "(.*?)")}  # the most, the least
    return [re.compile(each) for each in found - {""}]


def is_said(text: str, patterns: list[re.Pattern[str]]) -> bool:
    """Whether a text is one of the code's, and so is each long one inside it."""
    for each in patterns:
        found = each.fullmatch(text)
        if found and all(
            len(part) < MOST or part in OTHERS or is_said(part, patterns) for part in found.groups()
        ):
            return True
    return False


@pytest.mark.parametrize("message", MESSAGES, ids=lambda text: " ".join(text.split())[:40])
def test_the_code_can_say_it(message: str, patterns: list[re.Pattern[str]]) -> None:
    text = " ".join(message.split())
    assert is_said(text, patterns), f"nothing in the code says: {text}"


def test_what_the_code_does_not_say_is_found(patterns: list[re.Pattern[str]]) -> None:
    inside = "X-v0: environment 2 {} at step 8 since the last reset() (episode 1, run seed 0, action 3)."
    assert is_said(inside.format("gave no answer for 300 s (envs.timeout)"), patterns)
    assert not is_said(inside.format("gave no reply for 300 s, so it is ended"), patterns)
