"""Figures of what a world model foresees: an open-loop prediction beside the truth, and the KL by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agent.run.video import SIDE, Colour, Tiles, rgb

COLUMNS = 16  # images shown of a sequence
LINES = 256  # entries shown of a vector
OBSERVED: Colour = (60, 60, 60)
PREDICTED: Colour = (200, 100, 0)  # as the line before the first predicted step


def open_loop(
    true: np.ndarray, predicted: np.ndarray, context: int, reconstructed: np.ndarray | None = None
) -> Figure:
    """Draw an open-loop prediction: rows true, predicted, error; time from left to right.

    Args:
        true, predicted: images `[T, H, W, C]` in [0, 1], or vectors `[T, d]`.
        context: number of steps the model had observed; a line stands before the first predicted one.
        reconstructed: for a further row, what is decoded where all is observed.

    At most 16 images, evenly spaced, whose error is signed around grey. Of vectors a heat map, scaled by the
    range of `true`, with every n-th entry if they are very long; the error is blue where predicted is too
    low, red where it is too high.
    """
    if true.ndim == 4:
        shown = _rows(lambda images: rgb(images.astype(np.float64)), true, predicted, reconstructed)
        return _images(shown, context)
    every = -(-true.shape[1] // LINES)
    shown = _rows(lambda values: values[:, ::every].astype(np.float64), true, predicted, reconstructed)
    true = shown["true"]
    low, high = float(true.min()), float(true.max())
    span = max(high - low, 1e-6)
    figure = Figure(
        figsize=(9, 1.2 + len(shown) * float(np.clip(0.16 * true.shape[1], 0.6, 2.4))), layout="constrained"
    )
    axes = figure.subplots(len(shown), 1, sharex=True)
    for axis, (name, values) in zip(axes, shown.items(), strict=True):
        error = name == "error"
        scale = (-span, span) if error else (low, low + span)
        drawn = axis.imshow(
            values.T,
            cmap="RdBu_r" if error else "viridis",
            vmin=scale[0],
            vmax=scale[1],
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_ylabel(f"{name}\nelement")
        _mark(axis, context - 0.5, context < len(true))
        figure.colorbar(drawn, ax=axis)
    axis.set_xlabel(f"step; predicted from {context} on")
    return figure


def open_loop_frames(
    sequences: Sequence[Sequence[np.ndarray]], context: int, side: int = SIDE
) -> Iterator[np.ndarray]:
    """The frames of a video of open-loop predictions, uint8 `[H, W, 3]`, a row of each.

    Args:
        sequences: of one or more, true and predicted images `[T, H, W, C]` in [0, 1], and between them, where
            there are any, those decoded where all is observed. The last frame of a shorter one stays.
        context: number of steps the model had observed.
        side: pixels up to which images are enlarged.

    The columns are true, reconstructed if there is such a sequence, predicted (up to the context
    reconstructed) and the error, signed around grey. What stands below them is grey up to the context, orange
    from there on.
    """
    height, width = sequences[0][0].shape[1:3]
    columns = len(sequences[0]) + 1
    tiles = Tiles(columns * len(sequences), height, width, columns=columns, side=side)
    for step in range(max(len(parts[0]) for parts in sequences)):
        colour, kind = (OBSERVED, "reconstructed") if step < context else (PREDICTED, "predicted")
        row = []
        for parts in sequences:
            at = min(step, len(parts[0]) - 1)
            true, *between, predicted = (rgb(part[at].astype(np.float64)) for part in parts)
            panels = [(f"true  step {at}", true), *(("reconstructed", each) for each in between)]
            panels += [(kind, predicted), ("error", (predicted - true + 1) / 2)]
            row += [(_bytes(panel), text, colour) for text, panel in panels]
        yield tiles.draw(row)


def kl_by_step(kl: Mapping[int, float]) -> Figure:
    """Draw the mean KL in nats by steps since the episode began."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(kl), list(kl.values()), marker=".")
    axes.set(xlabel="steps since the episode began", ylabel="KL of posterior and prior, nats", ylim=(0, None))
    axes.grid(alpha=0.3)
    return figure


def to_array(figure: Figure) -> np.ndarray:
    """A figure as a picture `[H, W, 3]` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _rows(
    convert: Callable[[np.ndarray], np.ndarray],
    true: np.ndarray,
    predicted: np.ndarray,
    reconstructed: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """What is drawn, from top to bottom, by name."""
    shown = {"true": convert(true)}
    if reconstructed is not None:
        shown["reconstructed"] = convert(reconstructed)
    shown["predicted"] = convert(predicted)
    return shown | {"error": shown["predicted"] - shown["true"]}


def _images(shown: Mapping[str, np.ndarray], context: int) -> Figure:
    """Rows of images `[T, H, W, 3]` in [0, 1], and of their error."""
    true, rows = shown["true"], len(shown)
    steps = np.unique(np.linspace(0, len(true) - 1, min(len(true), COLUMNS)).round().astype(int))
    height, width = true.shape[1:3]
    size = 0.75 * len(steps) + 0.7, 0.75 * rows * height / width + 0.9
    figure = Figure(figsize=size, layout="constrained")
    for axis, (name, values) in zip(figure.subplots(rows, 1, sharex=True), shown.items(), strict=True):
        frames = (values + 1) / 2 if name == "error" else values
        axis.imshow(np.concatenate(list(np.clip(frames[steps], 0, 1)), 1), interpolation="nearest")
        axis.set_yticks([])
        axis.set_ylabel(name)
        later = np.flatnonzero(steps >= context)
        _mark(axis, later[0] * width - 0.5 if later.size else 0, bool(later.size))
    axis.set_xticks((np.arange(len(steps)) + 0.5) * width, [str(step) for step in steps])
    axis.set_xlabel(f"step; predicted from {context} on")
    return figure


def _bytes(image: np.ndarray) -> np.ndarray:
    """An image of values in [0, 1] as uint8."""
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _mark(axis: object, place: float, there: bool) -> None:
    """The line before the first predicted step."""
    if there:
        axis.axvline(place, color="darkorange", linewidth=2)  # type: ignore[attr-defined]
