"""Actions there and back, and the policy's distributions against torch's."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from agent.actions import ActionCodec, BoundedNormal, Categoricals

SPACES = [
    spaces.Discrete(5),
    spaces.Discrete(1),
    spaces.MultiDiscrete([3, 2, 4]),
    spaces.MultiDiscrete([[3, 2], [2, 5]]),
    spaces.Box(-1, 1, (3,)),
    spaces.Box(-1, 1, (2, 2)),
    spaces.Box(-1, 1, ()),
]


def codec_of(space: spaces.Space) -> ActionCodec:
    return ActionCodec(space, unimix=0.01, min_std=0.1, max_std=1.0)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("lead", [(4,), (2, 3)])
def test_round_trip(space: spaces.Space, lead: tuple[int, ...]) -> None:
    """Environment actions -> vectors -> the same actions, in the environment's dtype and shape."""
    codec = codec_of(space)
    space.seed(0)
    actions = np.stack([np.asarray(space.sample()) for _ in range(int(np.prod(lead)))])
    batch = torch.as_tensor(actions.reshape(*lead, *space.shape))
    vectors = codec.encode(batch)
    assert vectors.shape == (*lead, codec.size) and vectors.dtype == torch.float32
    back = codec.decode(vectors.flatten(0, -2))
    assert back.dtype == space.dtype
    np.testing.assert_array_equal(back, actions)
    assert all(space.contains(np.asarray(action)) for action in back)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_and_modes_can_be_acted(space: spaces.Space) -> None:
    codec = codec_of(space)
    torch.manual_seed(0)
    policy = codec.distribution(3 * torch.randn(50, codec.policy_outputs))
    for vectors in (policy.rsample(), policy.mode()):
        assert vectors.shape == (50, codec.size)
        actions = codec.decode(vectors)
        assert actions.shape == (50, *space.shape)
        assert all(space.contains(np.asarray(action)) for action in actions)
        assert policy.log_prob(vectors).shape == policy.entropy().shape == (50,)


def test_one_hot_vectors_side_by_side() -> None:
    codec = codec_of(spaces.MultiDiscrete([3, 2]))
    assert codec.encode(torch.tensor([[2, 0]])).tolist() == [[0, 0, 1, 1, 0]]
    assert codec.decode(torch.tensor([[0.0, 1, 0, 0, 1]])).tolist() == [[1, 1]]
    assert codec_of(spaces.Discrete(3)).encode(torch.tensor([1])).tolist() == [[0, 1, 0]]


def test_a_box_gets_what_it_allows() -> None:
    codec = codec_of(spaces.Box(-1, 1, (2,)))
    assert codec.decode(torch.tensor([[1.5, -3.0]])).tolist() == [[1, -1]]


@pytest.mark.parametrize(
    "space", [spaces.MultiBinary(3), spaces.Text(4), spaces.Dict({"a": spaces.Discrete(2)})]
)
def test_other_spaces_are_refused(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="expected Discrete, MultiDiscrete or Box"):
        codec_of(space)


def test_categoricals_are_torch_s() -> None:
    torch.manual_seed(0)
    logits, sizes, unimix = torch.randn(6, 5), [3, 2], 0.1
    policy = Categoricals(logits, sizes, unimix)
    laws = [
        distributions.Categorical(probs=(1 - unimix) * part.softmax(-1) + unimix / part.shape[-1])
        for part in logits.split(sizes, -1)
    ]
    index = torch.stack([law.sample() for law in laws], -1)
    action = codec_of(spaces.MultiDiscrete(sizes)).encode(index)
    expected = sum(law.log_prob(index[:, i]) for i, law in enumerate(laws))
    torch.testing.assert_close(policy.log_prob(action), expected)
    torch.testing.assert_close(policy.entropy(), sum(law.entropy() for law in laws))
    mode = torch.cat(
        [torch.nn.functional.one_hot(law.probs.argmax(-1), law.probs.shape[-1]) for law in laws], -1
    )
    assert torch.equal(policy.mode(), mode.float())


def test_categorical_samples_come_as_often_as_they_should() -> None:
    torch.manual_seed(0)
    policy = Categoricals(torch.tensor([[2.0, 0.0, -1.0, 1.0, 1.0]]).expand(20_000, 5), [3, 2], 0.01)
    often = policy.rsample().mean(0)
    torch.testing.assert_close(often, torch.cat(policy.probs, -1)[0], atol=0.015, rtol=0)


def test_unimix_leaves_no_action_impossible() -> None:
    policy = Categoricals(torch.tensor([[200.0, -200.0]], requires_grad=True), [2], 0.02)
    torch.testing.assert_close(policy.probs[0], torch.tensor([[0.99, 0.01]]))
    assert policy.log_prob(torch.tensor([[0.0, 1.0]])).item() == pytest.approx(np.log(0.01), rel=1e-5)
    (policy.log_prob(torch.tensor([[0.0, 1.0]])) + policy.entropy()).backward()


def test_bounded_normal_is_torch_s() -> None:
    torch.manual_seed(0)
    outputs = 3 * torch.randn(6, 4)
    policy = BoundedNormal(outputs, 0.1, 1.0)
    mean, spread = outputs.chunk(2, -1)
    law = distributions.Independent(
        distributions.Normal(mean.tanh(), 0.1 + 0.9 * torch.sigmoid(spread + 2)), 1
    )
    action = law.sample()
    torch.testing.assert_close(policy.log_prob(action), law.log_prob(action))
    torch.testing.assert_close(policy.entropy(), law.entropy())
    torch.testing.assert_close(policy.mode(), law.mean)
    assert bool((policy.std >= 0.1).all()) and bool((policy.std <= 1).all())


def test_bounded_normal_samples() -> None:
    torch.manual_seed(0)
    policy = BoundedNormal(torch.tensor([[0.3, -2.0, -1.0, 0.5]]).expand(20_000, 4), 0.1, 1.0)
    samples = policy.rsample()
    torch.testing.assert_close(samples.mean(0), policy.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(samples.std(0), policy.std[0], atol=0.02, rtol=0)


def test_gradients_of_samples() -> None:
    """Of a Normal: reparametrised. Of a categorical: that of its probabilities (straight through)."""
    outputs = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(5, 4)
    normal = codec_of(spaces.Box(-1, 1, (2,))).distribution(outputs)
    sample = normal.rsample()
    noise = ((sample - normal.mean) / normal.std).detach()
    expected = torch.autograd.grad(
        (weight[:, :2] * (normal.mean + normal.std * noise)).sum(), outputs, retain_graph=True
    )
    torch.testing.assert_close(torch.autograd.grad((weight[:, :2] * sample).sum(), outputs), expected)

    categorical = codec_of(spaces.Discrete(4)).distribution(outputs)
    actual = torch.autograd.grad((weight * categorical.rsample()).sum(), outputs, retain_graph=True)
    torch.testing.assert_close(actual, torch.autograd.grad((weight * categorical.probs[0]).sum(), outputs))


def test_without_unimix_a_probability_of_zero_is_no_nan() -> None:
    """120 apart in logits, a float32 probability is 0: its logarithm is not there, 0 times it is 0."""
    outputs = torch.tensor([120.0, 0.0, 1.0], requires_grad=True)
    categoricals = ActionCodec(spaces.Discrete(3), 0.0, 0.1, 1.0).distribution(outputs)
    likely = categoricals.log_prob(torch.tensor([1.0, 0.0, 0.0]))
    assert likely == 0 and categoricals.entropy() == 0
    (likely + categoricals.entropy()).backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()


def test_deviations_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_std must be at most max_std, got 0\.5 and 0\.1"):
        ActionCodec(spaces.Box(-1, 1, (1,)), 0.0, 0.5, 0.1)
