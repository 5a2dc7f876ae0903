"""Processes on the loopback that are the ranks of one job."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.multiprocessing as mp


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def placed(rank: int, size: int, port: int) -> Iterator[None]:
    """Within, this process is one that torchrun started."""
    place = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    with patch.dict(os.environ, {name: str(value) for name, value in place.items()}):
        yield


def on_ranks(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(*arguments)` in so many processes, which may join the job with `begun`."""
    mp.spawn(_one, (size, free_port(), work, arguments), size)


def _one(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with placed(rank, size, port):
        work(*arguments)
