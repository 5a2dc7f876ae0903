"""What is said of what a world model foresees: errors, accuracies, of which frames."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agent.agent import Agent
from agent.run.foresight import Foresight, errors, foresee, sequences, strips, tile_errors
from envs.spaces import OneHot
from tests.agent.run.episodes import SPACES, rows
from tests.agent.run.house import configure
from worldmodels.encoder_decoder import Decoder


def foresight(**changed: Any) -> Foresight:
    """Two episodes of 4 and 3 frames, two of them observed."""
    found = {
        "there": np.array([[True] * 4, [True] * 3 + [False]]),
        "reconstructed": {"a": np.array([[9.0, 9, 1, 2], [9, 9, 3, 99]]), "b": np.full((2, 4), 0.5)},
        "imagined": {"a": np.array([[9.0, 9, 4, 5], [9, 9, 6, 99]]), "b": np.ones((2, 4))},
        "reward": np.array([1.0, 0.0]),
        "inferred": np.array([0.6, 0.4]),
        "foretold": np.array([0.4, 0.3]),
        "kl": np.array([[1.0, 2, 3, 4], [3, 2, 1, 99]]),
    }
    return Foresight(context=2, **(found | changed))


def test_the_summary_is_of_the_frames_that_there_are() -> None:
    found = foresight().summary()
    assert (found["recon_error"], found["gen_error"]) == (2.5, 6.0)
    assert found["errors"] == {
        "a": {"recon_error": 2.0, "gen_error": 5.0},
        "b": {"recon_error": 0.5, "gen_error": 1.0},
    }
    assert found["gen_error_by_step"] == [6.0, 6.0] and found["kl_by_step"] == [2, 2, 2, 4]
    assert (found["reward_accuracy_inferred"], found["reward_accuracy_imagined"]) == (1.0, 0.5)
    assert (found["context"], found["episodes"]) == (2, 2)
    alike = foresight(reward=np.zeros(2)).summary()
    assert alike["reward_accuracy_imagined"] is None is alike["reward_accuracy_inferred"]


def test_what_is_said_of_doors_is_of_those_in_view_in_the_query() -> None:
    """Means over doors, not over frames; the context and what is past an episode's end do not count."""
    doors = {
        "count": np.array([[5.0, 5, 3, 0], [5, 5, 1, 5]]),
        "recon_error": np.array([[9.0, 9, 1, 0], [9, 9, 0, 9]]),
        "gen_error": np.array([[9.0, 9, 2, 0], [9, 9, 1, 9]]),
    }
    found = foresight(doors=doors).summary()
    assert (found["door_recon_error"], found["door_gen_error"], found["doors"]) == (0.25, 0.75, 4)
    none = {name: np.zeros((2, 4)) for name in doors}
    assert not foresight().summary().keys() & found.keys() - foresight(doors=none).summary().keys()


def test_errors_at_tiles() -> None:
    """Of 3 x 2 tiles: pixels of a picture, and one code each; what has no tiles is left out."""
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (6, 4, 3), np.uint8),
            "tiles": OneHot([4] * 6),
            "other": OneHot([4] * 5),
        }
    )
    decoder = Decoder(4, space, 2, 8, 1)
    true = {"image": torch.zeros(2, 6, 4, 3, dtype=torch.uint8)}
    shown = {"image": torch.zeros(2, 6, 4, 3)}
    shown["image"][0, 2, 1] = 0.5  # at tile (1, 0), a pixel's three channels
    shown["image"][0, 5, 3] = 1.0  # at tile (2, 1)
    codes = torch.nn.functional.one_hot(torch.zeros(2, 6, dtype=torch.int64), 4).float()
    true["tiles"], told = codes.flatten(1), codes.clone()
    told[:, 4] = told[:, 4].roll(1, -1)  # tile (2, 0) is wrong
    shown["tiles"] = told.flatten(1)
    true["other"], shown["other"] = torch.eye(20)[:2], 1 - torch.eye(20)[:2]
    where = torch.zeros(2, 3, 2, dtype=torch.bool)
    where[:, 1, 0] = where[0, 2, 0] = True
    assert tile_errors(decoder, shown, true, where).tolist() == [0.75 + 1, 0.0]
    where[:] = True
    assert tile_errors(decoder, shown, true, where).tolist() == [0.75 + 3 + 1, 1.0]


def test_errors_by_kind() -> None:
    """Pictures: squared error summed over [0, 1]; codes: how many are wrong; vectors: squared error."""
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (6, 5, 3), np.uint8),
            "codes": OneHot([3, 2, 3]),
            "vector": spaces.Box(-9, 9, (2,), np.float32),
        }
    )
    decoder = Decoder(4, space, 2, 8, 1)
    feature = torch.randn(7, 4)
    shown = decoder.observations(feature)
    codes = torch.zeros(7, 8)
    right = [part.argmax(-1) for part in shown["codes"].split([3, 2, 3], -1)]
    for row in range(7):  # the first `row % 4` codes are wrong
        for number, (begin, size) in enumerate(((0, 3), (3, 2), (5, 3))):
            codes[row, begin + (int(right[number][row]) + (number < row % 4)) % size] = 1
    truth = {
        "image": torch.full((7, 6, 5, 3), 255, dtype=torch.uint8),
        "codes": codes,
        "vector": torch.ones(7, 2),
    }
    found = errors(decoder, shown, truth)
    torch.testing.assert_close(found["image"], (1 - shown["image"]).square().sum((1, 2, 3)))
    assert found["codes"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    torch.testing.assert_close(found["vector"], (shown["vector"] - 1).square().sum(-1))


@pytest.mark.parametrize("backbone", ["s4wm", "s4wm_s4", "rssm", "tssm"])
def test_only_the_context_is_seen_of_what_is_imagined(backbone: str) -> None:
    """Later frames change what is inferred, and not what is foretold; actions change both."""
    agent = Agent(*SPACES, configure(backbone))
    for head in (agent.model.reward.net, agent.model.decoder.mlp):  # the last layer is zero at first
        torch.nn.init.normal_(head[-1].weight, std=0.01)
    episode, length = rows(9), 9

    def seen(**changed: np.ndarray) -> Foresight:
        return foresee(agent, [episode, episode | changed], context=4)

    later = np.where(np.arange(length)[:, None] >= 4, -1, episode["obs/vector"]).astype(np.float32)
    found = seen(**{"obs/vector": later})
    assert np.isclose(*found.foretold, rtol=1e-5) and not np.isclose(*found.inferred, rtol=1e-4)
    np.testing.assert_array_equal(found.imagined["vector"][:, :4], found.reconstructed["vector"][:, :4])
    told = found.imagined["vector"][:, 4:]
    assert (told[0] != told[1]).all()  # the truth differs
    other = episode["action"].copy()
    other[6] = (other[6] + 1) % 3
    found = seen(action=other)
    np.testing.assert_allclose(found.imagined["vector"][0, :6], found.imagined["vector"][1, :6], rtol=1e-4)
    assert not np.isclose(*found.foretold, rtol=1e-4)


def test_many_episodes_of_several_lengths() -> None:
    """What is said of an episode does not depend on those beside it."""
    agent = Agent(*SPACES, configure())
    episodes = [rows(5 + number % 3, number) for number in range(40)]
    found = foresee(agent, episodes, context=2)
    assert found.there.sum(1).tolist() == [len(episode["reward"]) for episode in episodes]
    for number in (0, 34):
        alone = foresee(agent, [episodes[number]], context=2)
        length = len(episodes[number]["reward"])
        np.testing.assert_allclose(found.foretold[number], alone.foretold[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            found.imagined["vector"][number, :length], alone.imagined["vector"][0], rtol=1e-5, atol=1e-5
        )
        assert found.reward[number] == alone.reward[0]


def test_strips_show_four_rows() -> None:
    agent = Agent(*SPACES, configure())
    (figure,) = strips(sequences(agent, rows(6), 3), 3).values()
    labels = [axis.get_ylabel().split("\n")[0] for axis in figure.axes[:4]]
    assert labels == ["true", "reconstructed", "predicted", "error"]
