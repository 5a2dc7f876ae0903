"""The memory that an update needs, known before training: counted on two parts of its batch, and extended.

Every tensor on the device counts from when it is made until it is freed. What grows with the batch is linear
in rows, dreams and recalled positions. What kernels and allocators take beside tensors is not seen: an update
needs at least this much.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import configs
from agent.agent import Agent
from replay.buffer import readable
from worldmodels import ranks

Spaces = tuple[gymnasium.spaces.Dict, gymnasium.Space]
MORE = 2**62
"""Bytes needed where counting them ran out of memory."""


class Peak(TorchDispatchMode):
    """Within, the bytes of tensors made on a device that live at once: `now`, and the `most` so far."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.kind, self.now, self.most = device.type, 0, 0
        self._living = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.device.type == self.kind:
                storage = value.untyped_storage()
                if storage not in self._living:
                    self._living.add(storage)
                    self._count(storage.nbytes())
                    weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


def of_update(spaces: Spaces, config: configs.Config, device: torch.device, behaviour: bool = True) -> int:
    """Bytes on a device, at least, of an agent of a rank's configuration and its updates.

    An agent of its own makes them, which is gone afterwards. A rank counts for itself: one that runs out of
    memory would leave the others waiting for its part of the update.
    """
    counts = {"imagination.count": config.imagination.count, "recall.positions": config.recall.positions}

    def peak(rows: int) -> int:
        part = {name: max(whole * rows // config.batch_size, 1) for name, whole in counts.items()}
        changed = configs.override(config, {"compile": False, "batch_size": rows} | part)
        with ranks.alone(), Peak(device) as counted:
            Agent(*spaces, changed, device).update(batch(spaces, rows, config.batch_length), behaviour)
        return counted.most

    few, half = config.batch_size // 4, config.batch_size // 2
    if not few:
        return peak(config.batch_size)
    least, more = peak(few), peak(half)
    return more + (more - least) * (config.batch_size - half) // (half - few)


def batch(spaces: Spaces, rows: int, length: int) -> dict[str, np.ndarray]:
    """Windows of zeros as replay gives them, `[rows, length, ...]`."""
    named = {f"obs/{name}": space for name, space in spaces[0].items()} | {"action": spaces[1]}
    flags = {name: np.zeros((rows, length), bool) for name in ("is_first", "is_last", "is_terminal")}
    shown = {name: np.zeros((rows, length, *(of.shape or ())), of.dtype) for name, of in named.items()}
    return shown | flags | {"reward": np.zeros((rows, length), np.float32)}


def on_gpu(spaces: Spaces, config: configs.Config, device: torch.device, behaviour: bool = True) -> str:
    """A line on what `of_update` counts, and what of it is free, on the rank that lacks most; none for a CPU.

    Raises:
        ValueError: it is not free, on all ranks of a job where it is not on one; names what to lower.
    """
    if device.type != "cuda":
        return ""
    try:
        needed = of_update(spaces, config, device, behaviour)
    except torch.OutOfMemoryError:
        needed = MORE
    gc.collect()
    torch.cuda.empty_cache()
    told = ranks.gathered(torch.tensor([[needed, torch.cuda.mem_get_info(device)[0]]])).tolist()
    needed, free = max(told, key=lambda each: each[0] - each[1])
    found = f"an update needs at least {readable(needed)} on the GPU, of which {readable(free)} are free"
    if needed > free:
        if needed == MORE:
            found = f"half of a batch is already more than the GPU has free, {readable(free)} without it"
        raise ValueError(
            f"{found}. Lower --imagination.count (here {config.imagination.count}), --batch_size "
            f"({config.batch_size}) or --batch_length ({config.batch_length}), or see who else uses it."
        )
    return found
