"""Figures of what a world model foresees: an open-loop prediction beside the truth, and the KL by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from agent.run.video import SIDE, Colour, Tiles, rgb

COLUMNS = 12  # images shown of a sequence
IMAGE = 1.1  # inches that one takes
LINES = 256  # entries shown of a vector
BARS, HALF = 64, 20  # bars shown of a vector, and pixels at least of half of the width
BAR: Colour = (120, 180, 250)
OBSERVED: Colour = (60, 60, 60)
PREDICTED: Colour = (200, 100, 0)
PictureOf = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""Observations of one frame, by name -> a picture of it, uint8 `[H, W, 3]`."""


def open_loop(
    true: np.ndarray,
    predicted: np.ndarray,
    context: int,
    reconstructed: np.ndarray | None = None,
    name: str = "observation",
) -> Figure:
    """Draw an open-loop prediction: rows true, predicted, error; time from left to right.

    Args:
        true, predicted: images `[T, H, W, C]` in [0, 1], or vectors `[T, d]`.
        context: number of steps the model had observed; a line stands before the first predicted one.
        reconstructed: for a further row, what is decoded where all is observed.
        name: of the observation, for the title.

    At most 12 images, evenly spaced, whose error is signed around grey. Of vectors a heat map, scaled by the
    range of `true`, with every n-th element if they are very long; the error is blue where predicted is too
    low, red where it is too high.
    """
    error = f"{np.square(predicted[context:] - true[context:]).mean():.3g}" if context < len(true) else "-"
    title = f"{name}: mean squared error of what is predicted {error}"
    if true.ndim == 4:
        shown = _rows(lambda images: rgb(images.astype(np.float64)), true, predicted, reconstructed)
        return _images(shown, context, title)
    size = true.shape[1]
    every = -(-size // LINES)
    shown = _rows(lambda values: values[:, ::every].astype(np.float64), true, predicted, reconstructed)
    low, high = float(shown["true"].min()), float(shown["true"].max())
    span = max(high - low, 1e-6)
    height = 1.3 + len(shown) * float(np.clip(0.3 * size, 1.1, 2.6))
    figure = Figure(figsize=(11, height), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True)
    for axis, (row, values) in zip(axes, shown.items(), strict=True):
        of_error = row == "error"
        scale = (-span, span) if of_error else (low, low + span)
        drawn = axis.imshow(
            values.T,
            cmap="RdBu_r" if of_error else "viridis",
            vmin=scale[0],
            vmax=scale[1],
            extent=(-0.5, len(true) - 0.5, size - 0.5, -0.5),
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_ylabel(f"{row}\nelement")
        axis.set_yticks(np.unique(np.linspace(0, size - 1, min(size, 8)).round()))
        figure.colorbar(drawn, ax=axis, label="predicted - true" if of_error else "value")
    axis.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    _explain(figure, axes, title, context, context - 0.5)
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
            row += [(as_bytes(panel), text, colour) for text, panel in panels]
        yield tiles.draw(row)


def views(shown: Mapping[str, np.ndarray], picture_of: PictureOf) -> np.ndarray:
    """Frames `[T, H, W, 3]` in [0, 1] of observations, each `[T, ...]`."""
    steps = zip(*shown.values(), strict=True)
    return np.stack([picture_of(dict(zip(shown, step, strict=True))) for step in steps]) / 255


def bars(values: np.ndarray, largest: float) -> np.ndarray:
    """A vector as a bar a number, to the left of the middle where it is below 0: uint8 `[h, w, 3]`.

    One of `largest` fills its half. Of a long vector every n-th number is shown.
    """
    values = values[:: -(-len(values) // BARS)]
    half = max(HALF, 2 * len(values))
    picture = np.full((4 * len(values), 2 * half + 1, 3), 40, np.uint8)
    for line, value in enumerate(np.clip(values / largest, -1, 1)):
        reach = round(float(value) * half)
        picture[4 * line : 4 * line + 3, half + min(reach, 0) : half + max(reach, 0) + 1] = BAR
    return picture


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


def _images(shown: Mapping[str, np.ndarray], context: int, title: str) -> Figure:
    """Rows of images `[T, H, W, 3]` in [0, 1], and of their error."""
    true, rows = shown["true"], len(shown)
    steps = np.unique(np.linspace(0, len(true) - 1, min(len(true), COLUMNS)).round().astype(int))
    height, width = true.shape[1:3]
    size = max(IMAGE * len(steps) + 0.5, 6), IMAGE * rows * height / width + 1.4
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    for axis, (name, values) in zip(axes, shown.items(), strict=True):
        frames = (values + 1) / 2 if name == "error" else values
        axis.imshow(np.concatenate(list(np.clip(frames[steps], 0, 1)), 1), interpolation="nearest")
        between = np.arange(1, len(steps)) * width - 0.5
        axis.vlines(between, -0.5, height - 0.5, color="white", linewidth=3)
        axis.set_yticks([])
        axis.set_ylabel(f"{name}\n(grey: none)" if name == "error" else name)
    axis.set_xticks((np.arange(len(steps)) + 0.5) * width - 0.5, [str(step) for step in steps])
    _explain(figure, axes, title, context, np.searchsorted(steps, context) * width - 0.5)
    return figure


def as_bytes(image: np.ndarray) -> np.ndarray:
    """An image of values in [0, 1] as uint8."""
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _explain(figure: Figure, axes: Sequence[Axes], title: str, context: int, place: float) -> None:
    """Say what is drawn, and mark in rows from top to bottom the `place` from where on it is predicted."""
    top, (left, right) = axes[0], axes[0].get_xlim()
    figure.suptitle(title)
    parts = [(f"observed: {context} steps", "left", OBSERVED, left, min(place, right))]
    if place < right:
        said = f"from step {context} on predicted, from the actions alone"
        parts.append((said, "right", PREDICTED, place, right))
        for axis in axes:
            axis.axvline(place, color=_colour(PREDICTED), linewidth=3)
    for text, side, colour, begin, end in parts:
        top.set_title(text, loc=side, fontsize="medium", color=_colour(colour), pad=10)  # type: ignore[arg-type]
        above = offset_copy(top.get_xaxis_transform(), figure, y=5, units="points")
        top.hlines(1, begin, end, color=_colour(colour), transform=above, clip_on=False, linewidth=5)
    axes[-1].set_xlabel("step")


def _colour(colour: Colour) -> tuple[float, ...]:
    """As matplotlib has it."""
    return tuple(part / 255 for part in colour)
