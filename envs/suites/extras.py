"""Packages that only some tasks need."""

from __future__ import annotations

import importlib
from types import ModuleType


def load(module: str, tasks: str, extra: str, packages: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: what to import.
        tasks: the tasks that need it, as worded in the message.
        extra: the extra of pyproject.toml that installs it.
        packages: names of the top-level packages that the extra installs, separated by spaces.

    Raises:
        ImportError: one of `packages` is not installed; the message names the extra. Other errors inside the
            package pass through unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in packages.split():
            raise
        raise ImportError(
            f"Tasks {tasks} need the package {missing}, which is not installed: pip install -e '.[{extra}]'"
        ) from error
