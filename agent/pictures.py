"""Pictures of what a world model predicts, drawn with numpy alone: [H,W,3] uint8, ready for
`Logger.image`, and the KL by step that one of them shows."""

from collections.abc import Mapping

import numpy as np

COLUMNS = 16
GAP = 2
START = np.array([255, 140, 0], np.uint8)  # the line where prediction begins
GRID = np.array([60, 60, 60], np.uint8)
BAR = np.array([86, 156, 214], np.uint8)
# Anchors of the colour maps, from low to high.
VALUES = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
ERRORS = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]])


def open_loop_picture(true: np.ndarray, predicted: np.ndarray, context: int) -> np.ndarray:
    """Draw an open-loop prediction: rows true, predicted, error; time from left to right.

    Arguments:
        true, predicted: images [T,H,W,C] in [0,1] or uint8, or vectors [T,d].
        context: number of steps the model had observed; the orange line stands before the first predicted
            step.

    Returns: [H',W',3] uint8. Images: at most 16 steps, the error is signed around grey. Vectors: heat maps,
    one line per entry, scaled by the range of `true`; the error is blue where predicted is too low, red where
    it is too high.

    Raises ValueError if the shapes differ, are of neither kind, or `context` is outside 0..T.
    """
    if true.shape != predicted.shape or true.ndim not in (2, 4):
        raise ValueError(
            f"an open-loop picture needs true and predicted of one shape [T,H,W,C] or [T,d], got "
            f"{true.shape} and {predicted.shape}."
        )
    if not 0 <= context <= len(true):
        raise ValueError(f"context must lie in 0..{len(true)}, got {context}.")
    if true.ndim == 2:
        return _vector_picture(true.astype(np.float64), predicted.astype(np.float64), context)
    return _image_picture(_unit(true), _unit(predicted), context)


def kl_picture(values: np.ndarray | Mapping[int, float]) -> np.ndarray:
    """Draw the KL [steps] by step since the episode began as bars, [H,W,3] uint8.

    A mapping gives the value of the steps it names; steps without a finite value stay empty. The tallest bar
    fills the height, which is at least one nat. Grey lines stand at every nat (above 10 at every ten, above
    100 at every hundred), ticks below at every tenth step.
    """
    if isinstance(values, Mapping):
        if not values:
            raise ValueError("no KL to draw: the mapping is empty.")
        array = np.full(max(values) + 1, np.nan)
        array[list(values)] = list(values.values())
    else:
        array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"the KL by step must be a vector with at least one entry, got shape {array.shape}.")
    height, below = 120, 4
    width = max(1, 480 // array.size)  # of one bar
    finite = np.where(np.isfinite(array), array, 0)
    top = max(1.0, float(finite.max()))
    picture = np.full((height + below, width * array.size, 3), 255, np.uint8)
    spacing = 10.0 ** np.ceil(np.log10(top / 10)) if top > 10 else 1.0
    for nats in np.arange(0, top + 1e-9, spacing):
        picture[height - 1 - round((height - 1) * nats / top)] = 200
    tall = np.round(np.clip(finite, 0, None) / top * height).astype(int)
    for step, pixels in enumerate(tall):
        left, right = step * width, (step + 1) * width - (width > 2)
        picture[height - pixels : height, left:right] = BAR
        if step % 10 == 0:
            picture[height:, left:right] = GRID
    return picture


def kl_by_step(kl: np.ndarray, is_first: np.ndarray) -> dict[int, float]:
    """Mean KL `[B, T]` by steps since the episode began, over the episodes that begin in the window."""
    age = episode_age(is_first)
    return {int(a): float(kl[age == a].mean()) for a in np.unique(age) if a >= 0}


def episode_age(is_first: np.ndarray) -> np.ndarray:
    """Steps since the episode began `[B, T]`, -1 where it began before the window."""
    steps = np.arange(is_first.shape[1])
    begin = np.maximum.accumulate(np.where(is_first, steps, -1), axis=1)
    return np.where(begin >= 0, steps - begin, -1)


def _image_picture(true: np.ndarray, predicted: np.ndarray, context: int) -> np.ndarray:
    """Draw images [T,H,W,3] in [0,1]."""
    steps = np.unique(np.linspace(0, len(true) - 1, min(len(true), COLUMNS)).round().astype(int))
    rows = []
    for panel in (true, predicted, (predicted - true + 1) / 2):
        frames = (np.clip(panel[steps], 0, 1) * 255).round().astype(np.uint8)
        frames = np.pad(frames, ((0, 0), (0, GAP), (GAP, 0), (0, 0)))  # a gap below and to the left of each
        rows.append(np.concatenate(list(frames), axis=1))
    picture = np.concatenate(rows)[:-GAP]
    return _mark(picture, np.flatnonzero(steps >= context), picture.shape[1] // len(steps))


def _vector_picture(true: np.ndarray, predicted: np.ndarray, context: int) -> np.ndarray:
    """Draw vectors [T,d] as heat maps, for very long ones only every n-th entry."""
    every = -(-true.shape[1] // 256)
    true, predicted = true[:, ::every], predicted[:, ::every]
    across, down = max(2, 512 // len(true)), max(1, min(12, 128 // true.shape[1]))  # of one cell
    low, high = float(true.min()), float(true.max())
    span = max(high - low, 1e-6)
    panels = [_colour((true - low) / span, VALUES), _colour((predicted - low) / span, VALUES)]
    panels.append(_colour((predicted - true) / span / 2 + 0.5, ERRORS))
    rows = []
    for panel in panels:
        cells = panel.transpose(1, 0, 2).repeat(down, 0).repeat(across, 1)
        rows.append(np.pad(cells, ((0, GAP), (0, 0), (0, 0))))
    return _mark(np.concatenate(rows)[:-GAP], np.arange(context, len(true)), across)


def _mark(picture: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    """Draw the line before the first of the predicted columns, if there is one."""
    if columns.size:
        left = int(columns[0]) * width
        picture[:, left : left + GAP] = START
    return picture


def _unit(images: np.ndarray) -> np.ndarray:
    """Return images [T,H,W,C] as [T,H,W,3] in [0,1]; any C but 3 is shown as grey."""
    scaled = images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)
    if scaled.shape[3] != 3:
        scaled = scaled.mean(3, keepdims=True).repeat(3, 3)
    return scaled


def _colour(values: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Map values in [0,1] to colours [...,3] between equally spaced anchors."""
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(np.clip(values, 0, 1), places, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)
