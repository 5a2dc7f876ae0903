"""What was measured before, the comparisons in docs/results/, beside a run that has just ended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import configs
from studies.curves import from_json

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def recorded(task: str, backbone: str) -> list[str]:
    """A line for each other backbone's return on this task that `docs/results/*.json` holds."""
    lines = []
    for path, record in _records(task):
        for name, got in record["results"].items():
            if name != backbone:
                (low, high), seeds = got["interval"], got["seeds"]
                many = f"[{low:.3g}, {high:.3g}] over {seeds} seeds" if seeds > 1 else "of one seed"
                lines.append(
                    f"recorded with {name}: mean return {got['return_mean']:.3g} {many} of "
                    f"{got['steps']:,} steps (docs/results/{path.name})"
                )
                if "command" in record:
                    commits = got.get("commits") or [record["commit"]]
                    listed = ", ".join(commit[:7] + commit[40:] for commit in commits)  # the rest: "-dirty"
                    lines.append(f"  by: {record['command']}, at commit {listed}")
    return lines


def picture(folder: Path, task: str, backbone: str) -> Path:
    """Draw a run's returns beside the recorded ones of other backbones, as `returns.png` in its folder."""
    from studies import plots  # matplotlib takes its time, which a summary without a picture can do without

    runs, optima = plots.gather([folder])
    group = dict(runs[task])
    for _, record in _records(task):
        optima[task] = record["optimum"]
        for name, curves in record.get("runs", {}).items():
            if name != backbone:
                group[f"{configs.label(name)}, recorded"] = [from_json(curve) for curve in curves]
    return plots.draw({task: group}, folder / "returns.png", optima)


def _records(task: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("task") == task:
            yield path, record
