"""Latents: mixing, sampling, divergence; categorical and Gaussian."""

import math

import torch
from torch.distributions import Normal, kl_divergence

from worldmodels.latent import (
    MODE,
    Categorical,
    Gaussian,
    make_latent,
    mix_uniform,
    sample_onehot,
)


def test_mix_uniform() -> None:
    probs = mix_uniform(torch.tensor([[100.0, 0.0, 0.0, 0.0]]), 0.04)
    torch.testing.assert_close(probs, torch.tensor([[0.97, 0.01, 0.01, 0.01]]))


def test_divergence_by_hand_and_where_a_probability_is_zero() -> None:
    left = torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # S = 2 groups
    right = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3) + math.log(2)
    latent = Categorical(2, 2, unimix=0.0)
    assert math.isclose(latent.kl(left, right).item(), expected, rel_tol=1e-6)
    probs = mix_uniform(torch.tensor([[1000.0, 0.0]], requires_grad=True), 0.0)
    divergence = latent.kl(probs, probs.detach())
    assert divergence.item() == 0
    divergence.backward()


def test_a_sample_inverts_the_cumulative_distribution() -> None:
    probs = torch.tensor([0.2, 0.3, 0.5]).expand(4, 3)
    sample = sample_onehot(probs, torch.tensor([0.0, 0.19, 0.21, 0.99]))
    assert torch.equal(sample, torch.eye(3)[[0, 0, 1, 2]])
    torch.manual_seed(0)
    many = sample_onehot(probs[:1].expand(20_000, 3)).mean(0)
    torch.testing.assert_close(many, probs[0], atol=0.02, rtol=0)


def test_the_gradient_of_a_sample_is_that_of_the_probabilities() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    weights = torch.randn(5, 3)
    (through,) = torch.autograd.grad((sample_onehot(logits.softmax(-1)) * weights).sum(), logits)
    (direct,) = torch.autograd.grad((logits.softmax(-1) * weights).sum(), logits)
    torch.testing.assert_close(through, direct)


def test_a_gaussian_by_hand() -> None:
    """Means first, then deviations of at least 0.1; a sample is the normal quantile of the noise."""
    latent = Gaussian(2)
    distribution = latent.distribution(torch.tensor([1.0, -2.0, 0.0, -100.0]))
    torch.testing.assert_close(distribution, torch.tensor([[1.0, 1.1], [-2.0, 0.1]]))
    assert torch.equal(latent.sample(distribution, MODE), torch.tensor([[1.0], [-2.0]]))
    sample = latent.sample(distribution, torch.tensor([0.5, Normal(0.0, 1.0).cdf(torch.tensor(2.0))]))
    torch.testing.assert_close(sample, torch.tensor([[1.0], [-1.8]]))
    assert latent.sample(distribution, torch.tensor([0.0, 1.0])).isfinite().all()
    torch.manual_seed(0)
    many = latent.sample(distribution.expand(20_000, 2, 2))[..., 0]
    torch.testing.assert_close(torch.stack([many.mean(0), many.std(0)], -1), distribution, atol=0.03, rtol=0)


def test_the_divergence_of_gaussians() -> None:
    latent = Gaussian(3)
    left, right = latent.distribution(torch.randn(2, 5, 6, dtype=torch.float64)).unbind(0)
    expected = kl_divergence(Normal(*left.unbind(-1)), Normal(*right.unbind(-1))).sum(-1)
    torch.testing.assert_close(latent.kl(left, right), expected)
    torch.testing.assert_close(latent.kl(left, left), torch.zeros(5, dtype=torch.float64))


def test_a_gaussian_sample_teaches_its_deviation() -> None:
    """The expected squared error of a sample has a gradient to its own noise; a one-hot sample's has none."""
    torch.manual_seed(0)
    outputs = torch.zeros(20_000, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        Gaussian(1).sample(Gaussian(1).distribution(outputs)).square().mean(), outputs
    )
    expected = 2 * 1.1 * 0.25  # d std^2 / d output, at a deviation of 1.1 = 2 sigmoid(0) + 0.1
    torch.testing.assert_close(gradient.sum(0), torch.tensor([0.0, expected]), atol=0.05, rtol=0)
    outputs = torch.zeros(20_000, 2, requires_grad=True)
    decoded = sample_onehot(outputs.softmax(-1)) @ torch.tensor([1.0, -1.0])  # +-1 of mean 0, the target
    (gradient,) = torch.autograd.grad(decoded.square().mean(), outputs)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(2), atol=0.05, rtol=0)


def test_which_latent() -> None:
    """`classes` 0 asks for a Gaussian; sizes are those of samples and of network outputs."""
    categorical, gaussian = make_latent(8, 4, 0.01), make_latent(8, 0, 0.01)
    assert isinstance(categorical, Categorical) and isinstance(gaussian, Gaussian)
    assert (categorical.shape, categorical.size, categorical.outputs) == ((8, 4), 32, 32)
    assert (gaussian.shape, gaussian.size, gaussian.outputs) == ((8, 1), 8, 16)
