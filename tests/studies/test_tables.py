"""Tables: columns are as wide as what is in them."""

from studies import tables

ROWS = [("a", 1.25, None), ("longer", 1000.0, 0.5)]
COLUMNS: tables.Columns = {
    "name": lambda row: row[0],
    "value": lambda row: f"{row[1]:,.1f}",
    "share": lambda row: tables.number(row[2], ".0%"),
}


def test_text() -> None:
    assert tables.text(ROWS, COLUMNS).splitlines() == [
        "name      value  share",
        "a           1.2      -",
        "longer  1,000.0    50%",
    ]
    assert tables.text([], {"": str, "b": str}) == "  b"


def test_markdown() -> None:
    assert tables.markdown(ROWS, COLUMNS).splitlines() == [
        "| name | value | share |",
        "|---|---|---|",
        "| a | 1.2 | - |",
        "| longer | 1,000.0 | 50% |",
    ]
