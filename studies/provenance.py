"""Where a run's numbers come from: the sessions that trained it, each with command, commit and hardware."""

import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from studies.collect import cores

REPOSITORY = Path(__file__).parents[1]
SESSIONS = "sessions.jsonl"


def record(logdir: str | Path, argv: Sequence[str]) -> None:
    """Append this session to <logdir>/sessions.jsonl: `began` (UTC), `command`, `commit`, `hardware`."""
    session = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(argv),
        "commit": commit(),
        "hardware": hardware(),
    }
    with (Path(logdir) / SESSIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(session) + "\n")


def commits(logdir: str | Path) -> list[str]:
    """Return the commits that trained a run, each once, in order; none where no session was recorded."""
    path = Path(logdir) / SESSIONS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["commit"] for line in lines))


def has_checkpoint(logdir: str | Path) -> bool:
    """Return whether a run has written a checkpoint, whole or damaged."""
    return any((Path(logdir) / "checkpoints").glob("*"))


def has_begun(logdir: str | Path) -> bool:
    """Return whether a run has left results, so that it may be resumed with its own options only."""
    return has_checkpoint(logdir) or (Path(logdir) / "result.json").exists()


def commit() -> str:
    """Return the checked-out commit, with '-dirty' if tracked files were changed; 'unknown' outside git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def hardware() -> dict[str, Any]:
    """Return what times and rounding depend on."""
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text(encoding="utf-8") if info.is_file() else "").splitlines()
        if line.startswith("model name")
    ]
    return {
        "platform": platform.platform(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cpus": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
