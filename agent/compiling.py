"""What torch.compile needs on a machine."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

CPP_COMPILERS = ("g++", "clang++")


def check_compiler(device: torch.device) -> None:
    """Check that what `torch.compile` needs is installed.

    Raises:
        ValueError: it is not: a C++ compiler for the CPU, Triton for a GPU.
    """
    if device.type == "cpu":
        chosen = os.environ.get("CXX")
        wanted = (chosen,) if chosen else CPP_COMPILERS
        if not any(map(shutil.which, wanted)):
            raise ValueError(
                f"compile: true needs a C++ compiler on the CPU, and none of {', '.join(wanted)} is in the "
                f"PATH. Install one, name one in the environment variable CXX, or use --compile false."
            )
    elif importlib.util.find_spec("triton") is None:
        raise ValueError(
            "compile: true needs the package triton on a GPU, and it is not installed. Install it, or use "
            "--compile false."
        )
