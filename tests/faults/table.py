"""What became of the faults that tests tried: one line for each, printed by `pytest --faults`."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass
class Tally:
    """Tries of one fault.

    Attributes:
        fault: what was done to the run; lines of one name are added up.
        tried: how often.
        survived: how often the outcome was the promised one: the run went on, or ended in order and said why.
        lost: environment steps, the most of all tries; None where no steps were at stake.
    """

    fault: str
    tried: int = 0
    survived: int = 0
    lost: int | None = None

    def attempt(self) -> None:
        """A try begins."""
        self.tried += 1

    def survive(self, lost: int | None = None) -> None:
        """The try ended as promised, and cost so many steps."""
        self.survived += 1
        if lost is not None:
            self.lost = max(lost, self.lost or 0)


def add_up(outcomes: Iterable[tuple[Tally, bool]]) -> list[Tally]:
    """One tally a fault, by name. A test that kept no count, told by whether it passed, is one try."""
    total: dict[str, Tally] = {}
    for tally, passed in outcomes:
        row = total.setdefault(tally.fault, Tally(tally.fault))
        row.tried += tally.tried or 1
        row.survived += tally.survived if tally.tried else int(passed)
        if tally.lost is not None:
            row.lost = max(tally.lost, row.lost or 0)
    return [total[fault] for fault in sorted(total)]


def lines(rows: Iterable[Tally]) -> list[str]:
    """The table for people."""
    rows = list(rows)
    width = max(len(row.fault) for row in rows)
    text = [f"{'fault':{width}}  {'tried':>5}  {'survived':>8}  {'lost steps (max)':>16}"]
    for row in rows:
        lost = "-" if row.lost is None else f"{row.lost}"
        text.append(f"{row.fault:{width}}  {row.tried:>5}  {row.survived:>8}  {lost:>16}")
    return text


def as_json(rows: Iterable[Tally]) -> list[dict[str, object]]:
    """The table for programs."""
    return [asdict(row) for row in rows]
