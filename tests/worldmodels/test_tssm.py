"""TSSM-XL: what its Transformer begins with."""

import torch

from tests.worldmodels import contract


def test_gradients_of_a_first_step_do_not_explode_with_the_layers() -> None:
    """Latent and action are zero there; were the input too, each norm would multiply its gradient by 300."""
    torch.manual_seed(0)
    case = contract.Case("tssm", {"tssm.layers": 6})
    backbone = contract.backbone_of(case.config(), embed_size=5, action_size=3)
    is_first = torch.ones(2, 4, dtype=torch.bool)
    rollout = backbone.observe(
        backbone.initial(2), torch.randn(2, 4, 5), torch.zeros(2, 4, 3), is_first, noise=torch.rand(2, 4, 4)
    )
    dynamics, _ = backbone.kl_losses(rollout)
    dynamics.sum().backward()
    largest = max(float(p.grad.abs().max()) for p in backbone.parameters() if p.grad is not None)
    assert largest < 1e4
