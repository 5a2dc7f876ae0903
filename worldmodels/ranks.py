"""One batch on several ranks: a rank's share of random numbers, and what ranks sum and gather in an update.

A rank is one of R processes of torch.distributed, and holds B / R consecutive rows of the job's batch. All
draw the numbers of the whole batch from generators that are seeded alike, and take those of their rows, so
that an update does not depend on R but for rounding. With one process each function is what torch would do.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def place() -> tuple[int, int]:
    """Number of this rank, and R."""
    if dist.is_available() and dist.is_initialized() and not _alone:
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process is a job of one: what fails here leaves no other rank waiting."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def uniform(shape: Sequence[int], **kind: Any) -> Tensor:
    """`torch.rand` of this rank's rows, axis 0; `kind` is dtype and device."""
    return _rows(torch.rand, shape, **kind)


def normal_like(value: Tensor) -> Tensor:
    """`torch.randn_like` of this rank's rows, axis 0."""
    if place()[1] == 1:
        return torch.randn_like(value)
    return _rows(torch.randn, value.shape, dtype=value.dtype, device=value.device)


def _rows(draw: Callable[..., Tensor], shape: Sequence[int], **kind: Any) -> Tensor:
    number, size = place()
    if size == 1:
        return draw(shape, **kind)
    return draw((size * shape[0], *shape[1:]), **kind)[number * shape[0] :][: shape[0]]


def own(drawn: Tensor, count: int) -> tuple[Any, Tensor]:
    """Of places `[n]` in the whole batch, drawn alike on every rank, those on this one, which has `count`.

    Returns:
        an index of these entries of `drawn`, and the entries, counted from this rank's first place.
    """
    number, size = place()
    if size == 1:
        return slice(None), drawn
    here = (drawn // count == number).nonzero()[:, 0]
    return here, drawn[here] - number * count


def scattered(value: Tensor, index: Any, count: int) -> Tensor:
    """`[count]` numbers whose mean over the ranks is that of all `value`; `index` is that of `own`."""
    size = place()[1]
    return value if size == 1 else value.new_zeros(count).index_put((index,), size * value)


def gathered(value: Tensor) -> Tensor:
    """`[n, ...]` of every rank -> `[R n, ...]`, without a gradient."""
    size = place()[1]
    if size == 1:
        return value
    found = value.new_empty(size * len(value), *value.shape[1:])
    dist.all_gather(list(found.split(len(value))), value.detach().contiguous())
    return found


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients, of the same parameters on every rank, by their means, the same bits on all.

    They travel together, and stay views of one tensor. Ranks of one machine that compute on its processors
    read them in each other's memory; others use `all_reduce`.
    """
    size = place()[1]
    if size == 1:
        return
    owned = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    parts = [gradient.flatten() for _, gradient in owned]
    lengths = [part.numel() for part in parts]
    here = os.environ.get("LOCAL_WORLD_SIZE") == str(size) and sys.platform == "linux"
    if here and parts[0].device.type == "cpu":
        mean = board(sum(lengths), parts[0].dtype).mean(parts)
    else:
        mean = torch.cat(parts)
        dist.all_reduce(mean)
        mean /= size
    for (parameter, gradient), part in zip(owned, mean.split(lengths), strict=True):
        parameter.grad = part.view_as(gradient)


class Board:
    """What every rank of one machine writes, `[count]`, in memory that all of them read.

    Two pages take turns, so that a rank that is ahead writes where none still reads.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self.turn = 0
        file = os.memfd_create("board")  # has no name, so that nothing of it is left however ranks end
        places = gathered(torch.tensor([[os.getpid(), file]])).tolist()
        self.pages = [
            torch.from_file(f"/proc/{process}/fd/{number}", shared=True, size=2 * count, dtype=dtype)
            for process, number in places
        ]
        gathered(torch.zeros(1))  # all have it open
        os.close(file)

    def mean(self, parts: Sequence[Tensor]) -> Tensor:
        """The mean `[count]` over ranks of vectors that are as long together."""
        self.turn = 1 - self.turn
        pages = [both.chunk(2)[self.turn] for both in self.pages]
        torch.cat(list(parts), out=pages[place()[0]])
        gathered(torch.zeros(1))  # all have written
        total = pages[0] + pages[1]
        for page in pages[2:]:
            total += page
        return total.div_(len(pages))


board = functools.cache(Board)
"""The board for so many numbers of a type, in this job."""
