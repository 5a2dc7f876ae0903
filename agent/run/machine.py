"""The machine: which device computes, how many threads, what the hardware is called."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` -> device; a ValueError if CUDA is requested and not available."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "device 'cuda' asked for, but torch finds no CUDA GPU here. Use --device cpu or auto."
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def prepare(threads: int) -> None:
    """Set torch's threads (0: as it likes), take numbers below 1e-38 as 0, and let glibc keep big blocks.

    What a well-trained model's gradients shrink to on their way back through a window is often below that,
    and takes a processor many times as long to multiply. Returning blocks to the system and getting them back
    slows training on a CPU, too.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # of this thread and those that it starts
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, Any]:
    """What times and rounding depend on."""
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
