"""What was measured before: the comparisons in docs/results/."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def recorded(task: str, backbone: str) -> list[str]:
    """A line for each other backbone's return on this task that `docs/results/*.json` holds.

    `evaluations.json` holds returns of finished runs by today's evaluation, if they were evaluated otherwise.
    """
    lines = []
    played = RESULTS / "evaluations.json"
    by_run = json.loads(played.read_text(encoding="utf-8")) if played.is_file() else {}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("task") != task:
            continue
        for name, got in record["results"].items():
            if name != backbone:
                low, high = got["interval"]
                seeds = got["seeds"] if isinstance(got["seeds"], int) else len(got["seeds"])
                many = f"[{low:.3g}, {high:.3g}] over {seeds} seeds" if seeds > 1 else "of one seed"
                mean = got["return_mean"]
                again = [
                    e["return_mean"] for run, e in by_run.items() if run.startswith(f"{path.stem}/{name}/")
                ]
                if again:
                    mean, many = sum(again) / len(again), f"over {len(again)} seeds, evaluated as today,"
                lines.append(
                    f"recorded with {name}: mean return {mean:.3g} {many} of "
                    f"{got['steps']:,} steps (docs/results/{path.name})"
                )
                if "command" in record:
                    commits = got.get("commits") or [record["commit"]]
                    listed = ", ".join(commit[:7] + commit[40:] for commit in commits)  # the rest: "-dirty"
                    lines.append(f"  by: {record['command']}, at commit {listed}")
    return lines
