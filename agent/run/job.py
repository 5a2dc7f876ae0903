"""A job: the ranks that `torchrun` started to train one agent together; one process is a job of one.

All run the same loop in step, and agree on what decides what comes next. The first alone writes and prints.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

import configs
from agent.agent import Agent
from agent.run.machine import choose_device
from agent.run.stopping import Stopped, StopRequest
from worldmodels import ranks

T = TypeVar("T")

BEAT, SILENT = 1.0, 30
"""Seconds between two signs of life of a rank, and how many it may miss."""
LONGEST = timedelta(days=1)
"""How long ranks that live wait for each other: the first may evaluate, or an environment may start anew."""


class Job:
    """This process's place in the job: its `number` among `size` ranks; the first, 0, `leads`."""

    def __init__(self) -> None:
        self.number, self.size = ranks.place()
        self.leads = self.number == 0

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Numbers `[n, ...]` of each rank -> `[R n, ...]`, on all of them."""
        return values if self.size == 1 else ranks.gathered(torch.as_tensor(values)).numpy()

    def report(self, line: str) -> None:
        """Print a line on stderr, on the first rank."""
        if self.leads:
            print(line, file=sys.stderr, flush=True)

    def collect(self, value: T) -> list[T]:
        """What each rank gives, on the first one; an empty list on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, found)
        return found or []

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first rank, which alone does it; what it raises is raised on all."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, None]
        failure: Exception | None = None
        if self.leads:
            try:
                told[0] = work()
            except Exception as error:
                failure = error
                told[1] = error if isinstance(error, Stopped) else configs.Mistake(f"rank 0: {error!r}")
        dist.broadcast_object_list(told)
        if failure or told[1]:
            raise failure or told[1]
        return told[0]

    def check(self, stop: StopRequest) -> None:
        """Raise Stopped on all ranks if one of them was asked to stop."""
        if number := int(self.rows(np.array([stop.received or 0], int)).max()):
            raise Stopped(signal.Signals(number))

    def share(self, config: configs.Config) -> configs.Config:
        """What this rank does of a job that is configured so; on a machine with GPUs it gets the one it uses.

        Raises:
            ValueError: batch or environments cannot be divided, or there are fewer GPUs than ranks.
        """
        if self.size == 1:
            return config
        share: dict[str, Any] = {"batch_size": config.batch_size, "envs.count": config.envs.count}
        for name, whole in share.items():
            if whole % self.size:
                raise ValueError(
                    f"{name} is that of the whole job, and {whole} cannot be divided among {self.size} "
                    f"ranks: use a multiple of {self.size}, or another --nproc-per-node."
                )
            share[name] = whole // self.size
        if choose_device(config.device).type == "cuda":
            local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= gpus:
                raise ValueError(f"--nproc-per-node is more than the {gpus} GPUs here; or use --device cpu.")
            torch.cuda.set_device(local)
        share["replay.capacity"] = config.replay.capacity // self.size
        share["replay.memory_gb"] = config.replay.memory_gb / self.size
        share["imagination.count"] = max(config.imagination.count // self.size, 1)
        return configs.override(config, share)

    def check_same(self, agent: Agent) -> None:
        """Make sure that all ranks have the same agent, by a sum over the bits of each of its tensors.

        Raises:
            FloatingPointError: one has not; names the rank and the first tensor.
        """
        if self.size == 1:
            return
        words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        named = agent.foreseeing.state_dict() | agent.actor_critic.state_dict(prefix="actor_critic.")
        sums = [value.view(words[value.element_size()]).sum(dtype=torch.int64) for value in named.values()]
        found = self.rows(torch.stack(sums)[None].cpu().numpy())
        for number, name in np.argwhere(found != found[0]):
            raise FloatingPointError(
                f"rank {number} differs from rank 0 in {list(named)[name]} after {agent.updates:,} updates. "
                f"Are their processors, or versions of torch, of different kinds?"
            )

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within, a call that failed because a rank is gone ends this one too, and names it."""
        try:
            yield
        except RuntimeError as error:
            time.sleep(4 * BEAT if _watch else 0)
            if _watch and (lost := _watch.lost(2)):
                _end(self.number, f"{lost} gone; the same command goes on from the newest checkpoint")
                raise SystemExit(1) from error
            raise


class _Watch(threading.Thread):
    """Writes every `BEAT` that this rank lives, and ends it when another has been `SILENT`.

    On gloo a call fails when a process is killed; on NCCL it waits, as both do when one hangs.
    """

    def __init__(self, number: int, size: int) -> None:
        super().__init__(daemon=True)
        self.number, self.ended = number, threading.Event()
        self._silent = dict.fromkeys({*range(size)} - {number}, 0)  # rank -> beats since it was heard
        # a connection of its own: a call that waits in another thread would hold up this one
        self._store = dist.PrefixStore("beats", _store(timedelta(seconds=SILENT * BEAT)))
        self._store.set(str(number), "0")

    def lost(self, beats: int) -> str:
        """The ranks that were silent for more beats than this, as the subject of a sentence."""
        found = [str(peer) for peer, silent in self._silent.items() if silent > beats]
        return f"rank {', '.join(found)} {'is' if len(found) == 1 else 'are'}" if found else ""

    def run(self) -> None:
        heard: dict[int, bytes] = {}
        try:
            for beat in itertools.count(1):
                if self.ended.wait(BEAT):
                    return
                self._store.set(str(self.number), str(beat))
                for peer, silent in self._silent.items():
                    now = self._store.get(str(peer))
                    self._silent[peer] = silent + 1 if heard.get(peer) == now else 0
                    heard[peer] = now
                if lost := self.lost(SILENT):
                    raise RuntimeError(f"{lost} silent for {SILENT * BEAT:g} s")
        except RuntimeError as error:
            if not self.ended.is_set():  # else it is the store, whose keeper has ended in order
                _end(self.number, str(error))
                os._exit(1)  # the main thread may wait for ever


_watch: _Watch | None = None


def _end(number: int, why: str) -> None:
    print(f"run.py: rank {number} ends: {why}.", file=sys.stderr, flush=True)


def _store(timeout: timedelta) -> dist.Store:
    """A new connection to the store of the job, without what was written before torchrun started it again."""
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"  # several machines get another store
    return dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"] if alone else "job", store)


@contextlib.contextmanager
def begun() -> Iterator[Job]:
    """Join the job that torchrun started this process for: gloo for what is on CPUs, NCCL for GPUs."""
    global _watch
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, timeout=LONGEST, store=_store(LONGEST), rank=number, world_size=size)
    job, watch = Job(), _Watch(number, size)
    everyone = np.zeros(1)
    job.rows(everyone)  # all have said that they live
    _watch = watch
    watch.start()
    try:
        yield job
        job.rows(everyone)
    finally:
        watch.ended.set()
        watch.join()
        _watch = None
        del watch  # and its connection, which must not outlive the interpreter
        ranks.board.cache_clear()
        dist.destroy_process_group()
