"""Say why a world model leaves something out of its pictures: its size, its updates, or its latent.

A run's encoder and decoder, and a posterior of one hidden layer that sees the picture alone, are fitted anew
to single pictures: nothing is remembered, and no KL is paid. Three such models differ in what the decoder
reads of the posterior: all of its outputs; the most probable latent; a sampled one, as in a world model. What
the first leaves out is too much for networks of this size or for so many updates; what only the last one
leaves out is lost in the noise of sampling.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import configs
from agent.optim import Optimiser
from agent.run.data import Episode
from agent.run.machine import choose_device
from agent.run.saved import SavedRun
from agent.run.video import rgb
from configs.command_line import Parser, Work, add_device, add_run, count, run_of
from replay.files import writable
from studies import tables
from studies.diagnose import choose
from studies.plots import SUFFIXES, save
from worldmodels.encoder_decoder import Batch, Decoder, Encoder, is_image
from worldmodels.latent import MODE, Noise, make_latent
from worldmodels.nets import MLP

WAYS = {"outputs": "all outputs", "mode": "the most probable latent", "sampled": "a sampled latent"}
EPISODES = 40  # whose pictures are taken, at most
HELD = 500  # pictures of other episodes, for the errors
BATCH = 128  # pictures of an update
SCORES = 4  # evaluations
COLUMNS = 10  # pictures drawn


class Drawer(nn.Module):
    """Pictures to pictures, through a latent or past it.

    Args:
        space: observations, of which the images are drawn.
        config: of the run; its sizes.
        way: one of `WAYS`.
    """

    def __init__(self, space: Any, config: configs.Config, way: str) -> None:
        super().__init__()
        sizes = getattr(config, config.backbone.partition("_")[0])
        self.way = way
        self.latent = make_latent(sizes.stoch, sizes.classes, sizes.unimix)
        self.encoder = Encoder(space, **config.encoder)
        self.posterior = MLP(self.encoder.output_size, sizes.units, 1, self.latent.outputs)
        read = self.latent.outputs if way == "outputs" else self.latent.size
        self.decoder = Decoder(read, space, **config.decoder)

    def feature(self, pictures: Batch) -> Tensor:
        """What the decoder reads, `[N, F]`."""
        outputs = self.posterior(self.encoder(pictures))
        if self.way == "outputs":
            return outputs
        noise: Noise = MODE if self.way == "mode" else None
        return self.latent.sample(self.latent.distribution(outputs), noise).flatten(-2)

    def errors(self, pictures: Batch) -> Tensor:
        """Squared errors summed over each picture, `[N]`."""
        return torch.stack(list(self.decoder.losses(self.feature(pictures), pictures).values())).sum(0)


def arguments(parser: Parser) -> None:
    """The run, and how long."""
    add_run(parser, "folder of the run whose sizes are taken")
    add_device(parser)
    data = "episodes of collect [those the run was fitted to]"
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    parser.add_argument("--updates", type=count, default=800, metavar="N", help="of each model [800]")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="picture to write [none]")


def prepare(args: argparse.Namespace) -> Work:
    """See `draw`."""
    if args.out:
        writable(args.out, SUFFIXES)
    run = SavedRun.of(run_of(args), args.device)
    space = run.interface.spaces[0]
    images = [key for key, leaf in space.items() if is_image(leaf)]
    if not images:
        raise ValueError(f"{run.config.task} shows no pictures: draw is for those that do.")
    fitted, held = choose(run, EPISODES, args.data)
    load = Episode(*run.interface.spaces).load

    def pictures(paths: list[Path]) -> Batch:
        rows = [load(path) for path in paths]
        device = choose_device(run.config.device)
        return {
            key: torch.as_tensor(np.concatenate([each[f"obs/{key}"] for each in rows]), device=device)
            for key in images
        }

    def work() -> tuple[dict[str, Any], str]:
        only = type(space)({key: space[key] for key in images})
        result, drawn = draw(run.config, only, pictures(fitted), pictures(held), args.updates)
        text = "\n".join(lines(result))
        if args.out:
            text += f"\n{picture(drawn, args.out)}"
        return {"task": run.config.task} | result, text

    return work


def draw(
    config: configs.Config, space: Any, fitted: Batch, held: Batch, updates: int
) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Fit a model for each of `WAYS`, and judge it on other pictures.

    Args:
        config, space: see `Drawer`.
        fitted, held: pictures `[N, H, W, C]` uint8 by name.
        updates: of each model, with `BATCH` pictures in each.

    Returns:
        `updates`, of the evaluations; `mean`, the squared error of the mean picture; by way the errors. And
        `[H, W, C]` in [0, 1], pictures side by side: `true` and by way.
    """
    number = len(next(iter(fitted.values())))
    spread = torch.linspace(0, len(next(iter(held.values()))) - 1, HELD).long()
    held = {key: value[spread.unique()] for key, value in held.items()}
    marks = sorted({max(1, updates * k // SCORES) for k in range(1, SCORES + 1)})
    first = next(iter(held))
    shown = torch.linspace(0, len(held[first]) - 1, COLUMNS).long()
    drawn = {"true": held[first][shown].float() / 255}
    means = [(fitted[key].float().mean(0) - value).square() / 255**2 for key, value in held.items()]
    result: dict[str, Any] = {
        "updates": marks,
        "mean": float(sum(each.sum((1, 2, 3)).mean() for each in means)),
    }
    for way in tqdm(WAYS, unit="model"):
        torch.manual_seed(config.seed)
        model = Drawer(space, config, way).to(held[first].device)
        rates = dict(config["optimiser"])
        del rates["actor_lr"], rates["critic_lr"]
        optimiser = Optimiser(model, lr=rates.pop("model_lr"), **rates)
        result[way] = []
        for update in range(1, updates + 1):
            taken = torch.randint(number, (BATCH,))
            optimiser.step(model.errors({key: value[taken] for key, value in fitted.items()}).mean())
            if update in marks:
                with torch.no_grad():
                    result[way].append(float(model.errors(held).mean()))
        with torch.no_grad():
            drawn[way] = model.decoder(model.feature({key: value[shown] for key, value in held.items()}))[
                first
            ]
    return result, {name: np.concatenate(list(each.cpu().numpy()), 1) for name, each in drawn.items()}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Errors of a picture by update."""
    yield f"squared error of a picture, summed over it; {result['mean']:.3g} for the mean picture"
    columns: tables.Columns = {
        "the decoder reads": lambda way: WAYS[way],
        **{f"{u:,} updates": partial(_cell, result, k) for k, u in enumerate(result["updates"])},
    }
    yield tables.text(WAYS, columns)


def _cell(result: Mapping[str, Any], column: int, way: str) -> str:
    return tables.number(result[way][column])


def picture(drawn: Mapping[str, np.ndarray], out: Path) -> Path:
    """True pictures, and below them what each way leaves of them."""
    height, width = next(iter(drawn.values())).shape[:2]
    figure = Figure(figsize=(9, 9.5 * len(drawn) * height / width + 0.3), layout="constrained")
    for axis, (name, row) in zip(figure.subplots(len(drawn)), drawn.items(), strict=True):
        axis.imshow(rgb(row), interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=WAYS.get(name, name))
    return save(figure, out)
