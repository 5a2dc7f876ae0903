"""Categoricals: mixing, sampling, divergence."""

import math

import torch

from worldmodels.base import categorical_kl, mix_uniform, sample_onehot


def test_mix_uniform() -> None:
    probs = mix_uniform(torch.tensor([[100.0, 0.0, 0.0, 0.0]]), 0.04)
    torch.testing.assert_close(probs, torch.tensor([[0.97, 0.01, 0.01, 0.01]]))


def test_divergence_by_hand_and_where_a_probability_is_zero() -> None:
    left = torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # S = 2 groups
    right = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3) + math.log(2)
    assert math.isclose(categorical_kl(left, right).item(), expected, rel_tol=1e-6)
    probs = mix_uniform(torch.tensor([[1000.0, 0.0]], requires_grad=True), 0.0)
    divergence = categorical_kl(probs, probs.detach())
    assert divergence.item() == 0
    divergence.backward()


def test_a_sample_inverts_the_cumulative_distribution() -> None:
    probs = torch.tensor([0.2, 0.3, 0.5]).expand(4, 3)
    sample = sample_onehot(probs, torch.tensor([0.0, 0.19, 0.21, 0.99]))
    assert sample.argmax(-1).tolist() == [0, 0, 1, 2]
    torch.manual_seed(0)
    many = sample_onehot(probs[:1].expand(20_000, 3)).mean(0)
    torch.testing.assert_close(many, probs[0], atol=0.02, rtol=0)


def test_the_gradient_of_a_sample_is_that_of_the_probabilities() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    weights = torch.randn(5, 3)
    (through,) = torch.autograd.grad((sample_onehot(logits.softmax(-1)) * weights).sum(), logits)
    (direct,) = torch.autograd.grad((logits.softmax(-1) * weights).sum(), logits)
    torch.testing.assert_close(through, direct)
