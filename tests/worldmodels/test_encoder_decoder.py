"""Encoder and decoder: any mix of observations, images of any size, one-hot codes."""

import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

from envs.spaces import OneHot
from tests.worldmodels.spaces import SPACES, observations
from worldmodels.encoder_decoder import (
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    halvings,
    is_image,
)
from worldmodels.heads import symlog

SHAPES = [(64, 64, 3), (40, 40, 3), (84, 84, 1), (7, 7, 3), (64, 20, 3), (9, 33, 1), (5, 5, 3), (1, 8, 2)]


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> spaces.Dict:
    return spaces.Dict(SPACES[request.param])


@pytest.mark.parametrize("lead", [(2,), (2, 3)])
def test_any_mix_of_observations(space: spaces.Dict, lead: tuple[int, ...]) -> None:
    """Encoder and decoder agree on shapes; every observation is used, and images end up in [0, 1]."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(space, 2, 8, 1), Decoder(10, space, 2, 8, 1)
    obs = observations(space, *lead)
    embed = encoder(obs)
    assert embed.shape == (*lead, encoder.output_size)
    for key in obs:
        other = obs | {key: observations(space, *lead, seed=1)[key]}
        assert not torch.equal(encoder(other), embed), f"{key} is not seen"
    feature = torch.randn(*lead, 10)
    means, losses = decoder(feature), decoder.losses(feature, obs)
    assert means.keys() == losses.keys() == obs.keys()
    for key, mean in means.items():
        assert mean.shape == obs[key].shape and losses[key].shape == lead
        target = obs[key].float() / 255 if is_image(space[key]) else symlog(obs[key])
        torch.testing.assert_close(losses[key], (mean - target).square().flatten(len(lead)).sum(-1))
    for key, value in decoder.observations(feature).items():
        if is_image(space[key]):
            assert value.min() >= 0 and value.max() <= 1
        else:
            torch.testing.assert_close(symlog(value), means[key])


@pytest.mark.parametrize("sizes", [(4,), (3, 3), (2, 4)], ids=str)
def test_one_hot_codes_are_decoded_by_cross_entropy(sizes: tuple[int, ...]) -> None:
    """As the door marks them: the loss is that of torch, summed over codes; predictions are probabilities."""
    space = spaces.Dict(seen=OneHot(sizes))
    torch.manual_seed(0)
    decoder = Decoder(10, space, 2, 8, 1)
    feature = torch.randn(5, 7, 10)
    targets = [torch.randint(size, (5, 7)) for size in sizes]
    obs = {"seen": torch.cat([F.one_hot(t, s).float() for t, s in zip(targets, sizes, strict=True)], -1)}
    logits = decoder(feature)["seen"].split(sizes, -1)
    expected = sum(
        F.cross_entropy(part.flatten(0, 1), target.flatten(), reduction="none").view(5, 7)
        for part, target in zip(logits, targets, strict=True)
    )
    torch.testing.assert_close(decoder.losses(feature, obs)["seen"], expected)
    shown = decoder.observations(feature)["seen"].split(sizes, -1)
    for probabilities, part in zip(shown, logits, strict=True):
        torch.testing.assert_close(probabilities, part.softmax(-1))


def test_the_scale_of_vectors_weighs_squared_errors_alone() -> None:
    space = spaces.Dict({**SPACES["mix"], "seen": OneHot((3,))})
    obs = {**observations(space, 2, 3), "seen": F.one_hot(torch.randint(3, (2, 3)), 3).float()}
    torch.manual_seed(0)
    plain = Decoder(10, space, 2, 8, 1)
    scaled = Decoder(10, space, 2, 8, 1, vector_scale=10.0)
    scaled.load_state_dict(plain.state_dict())
    feature = torch.randn(2, 3, 10)
    expected, found = plain.losses(feature, obs), scaled.losses(feature, obs)
    for key, leaf in space.items():
        squared = not is_image(leaf) and key != "seen"
        torch.testing.assert_close(found[key], (10 if squared else 1) * expected[key])
        assert not squared or found[key].min() > 0


def test_steps_are_encoded_alike_one_by_one(space: spaces.Dict) -> None:
    encoder = Encoder(space, 2, 8, 1)
    obs = observations(space, 2, 3)
    for t in range(3):
        single = encoder({key: value[:, t] for key, value in obs.items()})
        torch.testing.assert_close(single, encoder(obs)[:, t])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_goes_in_and_comes_out(shape: tuple[int, int, int]) -> None:
    """The encoder's output has the size it says; the decoder gives the picture's size, in [0, 1]."""
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder(shape, depth=2), ConvDecoder(11, shape, depth=2)
    code = encoder(torch.rand(3, *shape))
    assert code.shape == (3, encoder.output_size)
    picture = decoder(torch.randn(3, 11))
    assert picture.shape == (3, *shape)
    assert picture.min() >= 0 and picture.max() <= 1
    (code.square().sum() + picture.square().sum()).backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize("shape", [(64, 64, 3), (7, 7, 3), (5, 5, 3), (64, 20, 1)])
def test_every_pixel_is_seen_and_can_be_drawn(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, *shape, requires_grad=True)
    ConvEncoder(shape, depth=2)(picture).square().sum().backward()
    assert picture.grad is not None and bool(picture.grad.any(-1).all())
    decoder = ConvDecoder(8, shape, depth=2)
    deviation = decoder(torch.randn(16, 8)).std(0)
    assert bool((deviation > 0).all())


def test_a_decoder_learns_a_picture() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(2, (16, 12, 1), depth=4)
    target = torch.zeros(2, 16, 12, 1)
    target[0, :8], target[1, :, 6:] = 1, 1
    optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(60):
        error = (decoder(torch.eye(2)) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error < 0.02


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]),
        ((84, 84), [(84, 84), (42, 42), (21, 21), (11, 11), (6, 6)]),
        ((40, 40), [(40, 40), (20, 20), (10, 10), (5, 5)]),
        ((7, 7), [(7, 7), (4, 4)]),
        ((64, 1), [(64, 1), (32, 1), (16, 1), (8, 1), (4, 1)]),
        ((6, 2), [(6, 2)]),
    ],
)
def test_sizes_are_halved_upwards(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert halvings(*size) == expected
