"""One batch on several ranks: a rank's share of random numbers, and what ranks sum and gather in an update.

A rank is one of R processes of torch.distributed, and holds B / R consecutive rows of the job's batch. All
draw the numbers of the whole batch from generators that are seeded alike, and take those of their rows, so
that an update does not depend on R but for rounding. With one process each function is what torch would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET = 1 << 20
"""Numbers, at least, that are averaged in one message."""


def place() -> tuple[int, int]:
    """Number of this rank, and R."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


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


def average_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors, of the same shapes on every rank, by their means over ranks, the same bits on all."""
    size = place()[1]
    if size == 1:
        return
    buckets: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if sum(map(torch.numel, buckets[-1])) >= BUCKET:
            buckets.append([])
        buckets[-1].append(tensor)
    sums = [torch.cat([tensor.flatten() for tensor in bucket]) for bucket in buckets]
    works = [dist.all_reduce(flat, async_op=True) for flat in sums]
    for bucket, flat, work in zip(buckets, sums, works, strict=True):
        work.wait()
        parts = (flat / size).split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [part.view_as(own) for part, own in zip(parts, bucket, strict=True)])
