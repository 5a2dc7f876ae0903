"""Output distributions: exact two-hot codes, a first prediction of 0, extreme targets."""

import pytest
import torch
from torch import distributions

from worldmodels.heads import BernoulliHead, TwoHotHead, symexp, symlog

TARGETS = torch.tensor([0.0, 1.0, -1.0, 0.3, -0.001, 1e-6, 12.5, -250.0, 1e4, -3e6, 4e8])


@pytest.fixture
def head() -> TwoHotHead:
    torch.manual_seed(0)
    return TwoHotHead(6, units=8, layers=1)


def test_symlog_and_symexp_are_inverse() -> None:
    torch.testing.assert_close(symexp(symlog(TARGETS)), TARGETS)
    x = torch.linspace(-15, 15, 101)
    torch.testing.assert_close(symlog(symexp(x)), x)
    torch.testing.assert_close(symexp(-x), -symexp(x), rtol=0, atol=0)
    assert symlog(torch.tensor(torch.e - 1)) == pytest.approx(1)


def code(head: TwoHotHead, target: torch.Tensor) -> torch.Tensor:
    """The two-hot code `[..., bins]`: minus the gradient of the loss to the log-probabilities."""
    logits = torch.zeros(*target.shape, len(head.bins), requires_grad=True)
    loss = head.loss(logits, target)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return torch.softmax(logits.detach(), -1) - gradient


def test_the_mean_of_a_code_is_its_target(head: TwoHotHead) -> None:
    codes = code(head, TARGETS).double()
    means = (codes * head.bins.double()).sum(-1)
    torch.testing.assert_close(symlog(means), symlog(TARGETS.double()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codes.sum(-1), torch.ones_like(means))
    assert bool(((codes > 1e-5).sum(-1) <= 2).all()) and bool((codes > -1e-5).all())


def test_a_bin_is_its_own_code(head: TwoHotHead) -> None:
    torch.testing.assert_close(code(head, head.bins), torch.eye(len(head.bins)), atol=1e-5, rtol=0)


def test_mean_reads_the_code(head: TwoHotHead) -> None:
    """Log-probabilities of a code as logits give the target back."""
    logits = code(head, TARGETS).clamp(min=0).log()
    torch.testing.assert_close(symlog(head.mean(logits)), symlog(TARGETS), rtol=1e-3, atol=1e-4)


def test_bins_are_symmetric_and_hold_zero(head: TwoHotHead) -> None:
    bins = head.bins
    assert torch.equal(bins, -bins.flip(0)) and bins[len(bins) // 2] == 0
    assert bool((bins.diff() > 0).all())
    assert bins[-1] == pytest.approx(torch.e**20 - 1, rel=1e-5)
    with pytest.raises(ValueError, match="must be odd"):
        TwoHotHead(6, units=8, layers=1, bins=30)


def test_resolution_scales_the_bins(head: TwoHotHead) -> None:
    """Rewards of a fiftieth have codes without a common bin at 0.01, and almost the same ones at 1."""
    fine = TwoHotHead(6, units=8, layers=1, resolution=0.01)
    torch.testing.assert_close(fine.bins, head.bins / 100)
    small = torch.tensor([0.02, -0.02])
    for either, common in ((fine, 0.0), (head, 0.88)):
        plus, minus = code(either, small)
        torch.testing.assert_close(torch.minimum(plus, minus).sum().item(), common, atol=0.01, rtol=0)


def test_the_first_prediction_is_exactly_zero(head: TwoHotHead) -> None:
    logits = head(torch.randn(40, 6))
    assert not head.mean(logits).any()
    # A distribution that is symmetric but not uniform too, whatever the size of the outer bins.
    half = torch.randn(5, 127)
    symmetric = torch.cat([half, torch.zeros(5, 1), half.flip(-1)], -1)
    assert not head.mean(symmetric).any()


@pytest.mark.parametrize("target", [1e30, -1e30, torch.inf, -torch.inf])
def test_extreme_targets_are_the_outer_bins(head: TwoHotHead, target: float) -> None:
    logits = torch.zeros(1, len(head.bins), requires_grad=True)
    loss = head.loss(logits, torch.tensor([target]))
    loss.sum().backward()
    assert bool(loss.isfinite().all()) and logits.grad is not None
    assert logits.grad[0].argmin() == (len(head.bins) - 1 if target > 0 else 0)


def test_each_target_has_a_loss_of_its_own(head: TwoHotHead) -> None:
    logits = torch.randn(2, len(TARGETS), len(head.bins))
    targets = torch.stack([TARGETS, -TARGETS])
    codes = torch.stack([code(head, target) for target in targets])
    expected = -(codes * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(head.loss(logits, targets), expected, rtol=1e-3, atol=1e-3)


def test_a_head_learns_its_targets(head: TwoHotHead) -> None:
    features, targets = torch.eye(6), torch.tensor([0.0, 1.0, -1.0, 30.0, -0.2, 500.0])
    head = TwoHotHead(6, units=32, layers=1)
    optimiser = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(300):
        loss = head.loss(head(features), targets).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(symlog(head.mean(head(features))), symlog(targets), rtol=0, atol=0.1)


def test_bernoulli() -> None:
    torch.manual_seed(0)
    head = BernoulliHead(6)
    logits = head(torch.randn(3, 4, 6))
    assert logits.shape == (3, 4)
    target = torch.rand(3, 4).round()
    law = distributions.Bernoulli(logits=logits)
    torch.testing.assert_close(head.mean(logits), law.probs)
    torch.testing.assert_close(head.loss(logits, target), -law.log_prob(target))
    assert head.loss(torch.tensor([80.0, -80.0]), torch.tensor([0.0, 1.0])).isfinite().all()
