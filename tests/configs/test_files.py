"""Small files are read up to a limit; what is cut or hostile is named, with its line."""

from pathlib import Path

import pytest

import configs
from configs.files import read_json, read_lines, read_text

HOSTILE = {
    "brackets": "[" * 20_000,
    "braces": '{"a":' * 20_000,
    "digits": "1" * 10_000,
    "cut": '{"step": 1,\n "x',
    "a list": "[1]",
    "nothing": "",
}


@pytest.mark.faults("small file cut or malformed")
@pytest.mark.parametrize("content", HOSTILE)
def test_an_object_or_an_error_with_path_and_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(HOSTILE[content])
    with pytest.raises(ValueError, match=f"{path}, line {2 if content == 'cut' else 1}"):
        read_json(path)
    path.write_text('{"a": [1, {}]}')
    assert read_json(path) == {"a": [1, {}]}


@pytest.mark.faults("small file cut or malformed")
def test_a_bad_line_is_left_out_and_named(tmp_path: Path) -> None:
    path, said = tmp_path / "log.jsonl", []
    assert list(read_lines(path)) == []
    bad = ["[" * 20_000, '{"step": 2', "[1]", "\udcff"]
    text = "\n".join(['{"step": 1}', *bad, '{"step": 3}', '{"st'])
    path.write_text(text, errors="surrogateescape")
    assert list(read_lines(path, said.append)) == [{"step": 1}, {"step": 3}]
    assert len(said) == 5
    for number, message in zip((2, 3, 4, 5, 7), said, strict=True):
        assert message.startswith(f"left out {path}, line {number}"), message


@pytest.mark.faults("bomb in a file that is read")
def test_a_file_that_is_too_large_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 101)
    with pytest.raises(ValueError, match=f"{path} has more than 100 bytes"):
        read_text(path, 100)
    path.write_bytes(b"a\nb\xff")
    with pytest.raises(ValueError, match=f"{path}, line 2: it is not UTF-8"):
        read_text(path)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read"):
        read_text(tmp_path)


@pytest.mark.faults("bomb in a file that is read")
@pytest.mark.parametrize(
    "content",
    [
        "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a: &a {x: 1}\n<<: *a\n",
        "[" * 20_000,
        "a: " + "{b: " * 20_000,
        "# " + "x" * (2 << 20),
    ],
)
def test_a_configuration_unfolds_to_nothing_large(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=str(path)):
        configs.read(path)
