"""Which layers track a state: trained on words of a group, every step supervised, and tested on longer ones.

The model is S4WM's stack at the preset `small` between an embedding of the symbols and a linear readout of
the state (`envs.tasks.state_tracking`); with `gru`, for comparison, a GRU as wide as the RSSM's there.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import configs
import envs
from configs.command_line import Parser, Work, add_seed, count
from envs.tasks.state_tracking import words
from studies import tables
from worldmodels.ssm import LAYERS, Stack

CORES = (*LAYERS, "gru")
TASKS = ("parity", "modular", "permutation")
TIMES = (1, 2, 4)  # as long as in training
BATCH, RATE, TESTED = 32, 3e-3, 256
COLUMNS: tables.Columns = {
    "layer": lambda row: row["layer"],
    "task": lambda row: row["task"],
    "return at 1, 2, 4 times the length": lambda row: ", ".join(f"{found:.2f}" for found in row["returns"]),
}


class Model(nn.Module):
    """Symbols `[B, T]` -> logits of states `[B, T, states]`, by one of `CORES`."""

    def __init__(self, core: str, symbols: int, states: int) -> None:
        super().__init__()
        recurrent = core == "gru"
        config = configs.load(backbone="s4wm" if core in ("s5", "gru") else f"s4wm_{core}", presets=["small"])
        options, width, deter = config.s4wm, config.s4wm.width, config.rssm.deter
        self.embed = nn.Embedding(symbols, width)
        self.core: nn.Module = (
            nn.GRU(width, deter, batch_first=True)
            if recurrent
            else Stack(width, options.layers, lambda: LAYERS[core](width, **options[core]))
        )
        self.head = nn.Linear(deter if recurrent else width, states)

    def forward(self, symbols: Tensor) -> Tensor:
        x = self.embed(symbols)
        if isinstance(self.core, Stack):
            nowhere = torch.zeros_like(symbols, dtype=torch.bool)
            return self.head(self.core(x, self.core.initial(len(x)), nowhere)[0])
        return self.head(self.core(x)[0])


def arguments(parser: Parser) -> None:
    """Of which tasks, with which layers, how long."""
    tasks = f"of state_tracking:, also such as modular:modulus=5 [{' '.join(TASKS)}]"
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="NAME", help=tasks)
    layers = f"of {', '.join(CORES)} [all of them]"
    parser.add_argument("--layers", nargs="+", choices=CORES, default=CORES, metavar="NAME", help=layers)
    length = "symbols of a word in training [24]"
    parser.add_argument("--length", type=count, default=24, metavar="N", help=length)
    parser.add_argument("--updates", type=count, default=1000, metavar="N", help="of 32 words each [1000]")
    add_seed(parser, "of words and weights [0]", 0)


def prepare(args: argparse.Namespace) -> Work:
    """See `measure`."""
    for task in args.tasks:
        if "length=" in task:
            raise ValueError(f"give the length of words as --length N, not in --tasks, got {task!r}.")
    of = {task: envs.make_raw(f"state_tracking:{task}").get_wrapper_attr("table") for task in args.tasks}

    def work() -> tuple[dict[str, Any], str]:
        torch.set_num_threads(1)
        pairs = tqdm(list(product(args.layers, of)), unit="run")
        rows = [measure(core, task, of[task], args.length, args.updates, args.seed) for core, task in pairs]
        return {"length": args.length, "updates": args.updates, "rows": rows}, tables.text(rows, COLUMNS)

    return work


def measure(core: str, task: str, table: np.ndarray, length: int, updates: int, seed: int) -> dict[str, Any]:
    """Train by cross-entropy at every step.

    Returns:
        `layer`, `task`, `seed`, `parameters`; `returns` where words are 1, 2 and 4 times as long as in
        training: of the second half of their answers, 1 if all are right, 0 at random, as the task rewards.
    """
    torch.manual_seed(seed)
    rng, states = np.random.default_rng(seed), len(table)
    model = Model(core, table.shape[1], states)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(updates):
        symbols, answers = map(torch.as_tensor, words(table, BATCH, length, rng))
        optimiser.zero_grad()
        F.cross_entropy(model(symbols).flatten(0, 1), answers.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    returns = []
    for longer in TIMES:
        symbols, answers = map(torch.as_tensor, words(table, TESTED, length * longer, rng))
        with torch.no_grad():
            right = (model(symbols).argmax(-1) == answers)[:, length * longer // 2 :].float().mean().item()
        returns.append(round((states * right - 1) / (states - 1), 3))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"layer": core, "task": task, "seed": seed, "parameters": parameters, "returns": returns}
