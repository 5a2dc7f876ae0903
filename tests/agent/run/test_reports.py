"""What is told of a world model, and how it is drawn."""

import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.figure import Figure

from agent.run import pictures, reports, seams
from agent.run.reports import OpenLoop, episode_age
from envs.spaces import OneHot
from tests.agent.test_agent import SPACE, make, make_batch
from worldmodels import BACKBONES


def report(kl: np.ndarray, is_first: np.ndarray) -> OpenLoop:
    true = {"vector": np.zeros((*kl.shape, 2)), "image": np.zeros((*kl.shape, 6, 4, 3))}
    predicted = {"vector": np.ones((*kl.shape, 2)), "image": np.zeros((*kl.shape, 6, 4, 3))}
    predicted["vector"][:, :2] = 5
    return OpenLoop(true, predicted, kl, episode_age(is_first), context=2)


SYMBOLS = spaces.Dict({"tiles": OneHot([6] * 25), "heading": OneHot([4])})
KL = np.array([[9.0, 8.0, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0], [9.0, 9.0, 9.0, 9.0]])
FIRST = np.array([[False, False, True, False], [True, False, False, True], [False] * 4])


def test_kl_by_step_by_hand() -> None:
    """Rows before the window's first beginning have an unknown age and are left out."""
    found = report(KL, FIRST)
    assert found.kl_by_step() == {0: (1 + 3 + 6) / 3, 1: (2 + 4) / 2, 2: 5}
    assert found.metrics() == {"kl_by_step/0000": 10 / 3, "kl_by_step/0001": 3, "kl_by_step/0002": 5}
    assert report(KL[2:], FIRST[2:]).metrics() == {}


def test_metrics_stand_at_powers_of_two() -> None:
    found = report(np.zeros((1, 20)), np.eye(1, 20, dtype=bool))
    assert [int(name[-4:]) for name in found.metrics()] == [0, 1, 2, 4, 8, 16]


def test_errors_are_those_after_the_context() -> None:
    assert report(KL, FIRST).errors() == {"vector": 1.0, "image": 0.0}


def test_figures_by_name() -> None:
    """Of as many rows as wanted and there; without an episode's beginning there is no KL to draw."""
    drawn = report(KL, FIRST).figures(rows=2)
    assert list(drawn) == [
        *(f"open_loop/{key}/{row}" for key in ("vector", "image") for row in range(2)),
        "kl_by_step",
    ]
    assert list(report(KL[2:], FIRST[2:]).figures(rows=5)) == ["open_loop/vector/0", "open_loop/image/0"]


def test_frames_of_the_images() -> None:
    """A frame a step; without images there are none."""
    found = report(KL, FIRST)
    frames = list(found.frames(rows=2, side=6) or ())
    assert len(frames) == 4 and frames[0].shape[0] == 2 * (6 + 14) + 4
    assert len(list(found.frames(rows=9) or ())) == 4
    assert OpenLoop({"vector": KL}, {"vector": KL}, KL, KL, 2).frames(2) is None


def test_a_frame_by_hand() -> None:
    """True, predicted and their difference around grey; the line below changes where the context ends."""
    true, predicted = np.zeros((3, 40, 40, 3)), np.zeros((3, 40, 40, 3))
    true[:, :, :, 0], predicted[2] = 1.0, 1.0
    frames = list(pictures.open_loop_frames([(true, predicted)], 2))
    (first, last) = (frame[80, [80, 80 + 164, 80 + 328]].tolist() for frame in (frames[0], frames[2]))
    assert first == [[255, 0, 0], [0, 0, 0], [0, 128, 128]]
    assert last == [[255, 0, 0], [255, 255, 255], [128, 255, 255]]
    below = [tuple(frame[173, 159]) for frame in frames]
    assert below == [pictures.OBSERVED, pictures.OBSERVED, pictures.PREDICTED]


def test_frames_with_what_was_reconstructed() -> None:
    """A column more; a shorter sequence stays at its end."""
    long, short = np.zeros((3, 40, 40, 3)), np.ones((2, 40, 40, 3))
    frames = list(pictures.open_loop_frames([(long, 1 - long, long), (short, 0 * short, short)], 1))
    assert len(frames) == 3 and frames[0].shape == (2 * (160 + 14 + 4) - 4, 4 * 164 - 4, 3)
    above, below = (frames[2][row, 80::164, 0].tolist() for row in (80, 80 + 178))
    assert above == [0, 255, 0, 128] and below == [255, 0, 255, 128]


def panels(figure: Figure) -> dict[str, np.ndarray]:
    """Name of a row -> the values drawn in it."""
    return {
        axes.get_ylabel().split("\n")[0]: np.asarray(axes.images[0].get_array())
        for axes in figure.axes
        if axes.images and axes.get_ylabel()
    }


def marks(figure: Figure) -> list[float]:
    return [float(line.get_xdata()[0]) for axes in figure.axes for line in axes.lines]


def said(figure: Figure) -> list[str]:
    return [figure.axes[0].get_title(side) for side in ("left", "right")]


def test_images_of_an_open_loop_prediction() -> None:
    """Rows by name, at most 12 columns, a line before the first predicted one; equal means a grey error."""
    true = np.random.default_rng(0).random((30, 8, 10, 3))
    figure = pictures.open_loop(true, true, 15)
    drawn = panels(figure)
    assert list(drawn) == ["true", "predicted", "error"]
    assert drawn["true"].shape == (8, 12 * 10, 3)
    np.testing.assert_array_equal(drawn["true"][:, :10], true[0])
    assert (drawn["error"] == 0.5).all()
    assert marks(figure) == [6 * 10 - 0.5] * 3  # columns show steps 0, 3, ..., 13 | 16, ...
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()][5:7] == ["13", "16"]
    assert said(figure) == ["observed: 15 steps", "from step 15 on predicted, from the actions alone"]
    everything = pictures.open_loop(true, true, 30, name="image")
    assert marks(everything) == [] and said(everything) == ["observed: 30 steps", ""]
    assert everything.get_suptitle() == "image: mean squared error of what is predicted -"
    grey = panels(pictures.open_loop(true[..., :1], true[..., :1], 3))["true"]
    assert grey.shape == drawn["true"].shape and (grey[..., 0] == grey[..., 2]).all()


def test_vectors_of_an_open_loop_prediction() -> None:
    """Heat maps, an entry a line; the error has a sign."""
    true = np.tile([[0.0, 1.0]], (8, 1))
    predicted = true.copy()
    predicted[4:, 1] = 0
    figure = pictures.open_loop(true, predicted, 4)
    drawn = panels(figure)
    np.testing.assert_array_equal(drawn["true"], true.T)
    np.testing.assert_array_equal(drawn["error"], (predicted - true).T)
    assert marks(figure) == [3.5] * 3
    assert (
        figure.axes[0].get_yticks().tolist() == [0, 1] and figure.axes[-1].get_ylabel() == "predicted - true"
    )
    assert figure.get_suptitle() == "observation: mean squared error of what is predicted 0.5"
    assert panels(pictures.open_loop(np.zeros((5, 1000)), np.zeros((5, 1000)), 2))["true"].shape == (250, 5)


def test_symbols_are_seen_as_their_task_draws_them() -> None:
    """One observation, of all; its errors stay those of the symbols."""
    symbols = {"tiles": np.eye(2)[None, [0, 1, 1]], "heading": np.ones((1, 3, 1))}
    kl = np.zeros((1, 3))
    found = OpenLoop(symbols, {key: value[:, ::-1] for key, value in symbols.items()}, kl, kl, 1)
    shown = found.seen(lambda seen: np.full((4, 4, 3), 255 * seen["tiles"].argmax(), np.uint8))
    assert [view[0, :, 0, 0, 0].tolist() for view in (shown.true["view"], shown.predicted["view"])] == [
        [0, 1, 1],
        [1, 1, 0],
    ]
    assert list(shown.figures(1)) == ["open_loop/view/0", "kl_by_step"] and shown.frames(1) is not None
    assert found.seen(None) is found


@pytest.mark.parametrize("shape", [(5, 1), (300, 70), (40, 9, 9, 3), (3, 80, 40, 1)])
def test_every_shape_becomes_a_picture(shape: tuple[int, ...]) -> None:
    picture = pictures.to_array(pictures.open_loop(np.zeros(shape), np.zeros(shape), 2))
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert picture.shape[0] >= 300 and picture.shape[1] >= 600
    assert picture.std() > 0, "nothing was drawn"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_open_loop(backbone: str) -> None:
    """True and predicted observations in the same units; what comes after the context is not looked at."""
    agent = make(backbone)
    batch = make_batch(agent, SPACE)
    report = reports.open_loop(agent, batch, context=5)
    assert report.kl.shape == (4, 8)
    for key, leaf in SPACE.items():
        true, predicted = report.true[key], report.predicted[key]
        assert true.shape == predicted.shape == (4, 8, *leaf.shape)
        assert true.dtype == predicted.dtype == np.float32
    assert report.predicted["image"].min() >= 0 and report.true["image"].max() <= 1
    other = {key: value.copy() for key, value in batch.items()}
    other["obs/image"][:, 5:] = 255 - other["obs/image"][:, 5:]
    again = reports.open_loop(agent, other, context=5)
    np.testing.assert_array_equal(again.predicted["image"], report.predicted["image"])


def test_who_draws_symbols() -> None:
    """The task, if it shows some; an observation space names what is observed."""
    symbols = seams.picture_of("distracting_memory:width=10,observation=symbols", SYMBOLS)
    assert symbols is not None
    shown = symbols({"tiles": np.zeros(150), "heading": np.eye(4)[0]})
    assert shown.shape == (40, 40, 3) and shown.any()
    assert seams.picture_of("distracting_memory:width=10", SPACE) is None
