"""run.py in a process that ends itself: python dying.py SEEN LOGDIR WORDS...

It dies, as by SIGKILL, right before the first operation on files of LOGDIR that SEEN does not list, and adds
it there. Started again and again, it dies once before each of them, and then no more: a death before one
operation is a death after the one before it.
"""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(seen: Path, logdir: Path, words: list[str]) -> int:
    """Run the command until it meets an operation that is new."""
    known = set(seen.read_text().splitlines()) if seen.exists() else set()

    def meet(operation: str, path: Path) -> None:
        if not path.is_relative_to(logdir):
            return
        # numbers count steps, chunks and processes: the same thing again
        name = f"{operation} {re.sub(r'[0-9]+', 'N', str(path.relative_to(logdir)))}"
        if name not in known:
            known.add(name)
            with seen.open("a") as file:
                file.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def place(path: Any, folder: int = -1) -> Path:
        base = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path.cwd()
        return base / os.fsdecode(path)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and not isinstance(args[0], int) and args[2] & WRITES:
            meet("open", place(args[0]))
        elif event == "os.rename":
            meet("replace", place(args[1], args[3]))
        elif event in ("os.remove", "os.rmdir"):
            meet(event, place(args[0], args[1]))
        elif event == "os.mkdir":
            meet(event, place(args[0], args[2]))

    fsync = os.fsync

    def synced(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        meet("fsync", Path(f"/proc/self/fd/{number}").readlink())
        fsync(number)

    os.fsync = synced
    sys.path.insert(0, str(ROOT))
    import run

    sys.addaudithook(watch)
    return run.main(words)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
