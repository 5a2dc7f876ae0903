"""What every state-space layer promises, as `base.py` does for backbones; D channels, a state of size M."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.ssm.window import Window


class Layer(nn.Module):
    """Base of all layers; a new one sets `state_shape` and `d`, and implements the methods that raise.

    Attributes:
        state_shape: of the state of one row; complex numbers are pairs, `[..., 2]`.
        d: what of the inputs goes straight to the outputs; a parameter of every layer.
        DYNAMICS: names of the parameters that the authors trained without weight decay and with a learning
            rate of their own: A, B and the step sizes, where these are parameters.
    """

    DYNAMICS: tuple[str, ...] = ()
    state_shape: tuple[int, ...]
    d: nn.Parameter

    def initial(self, batch_size: int) -> Tensor:
        """State before the first step of an episode, zeros, `[B, *state_shape]`."""
        return self.d.new_zeros(batch_size, *self.state_shape)

    def forward(self, u: Tensor, state: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor | None]:
        """A window: u `[B, T, D]`, state `[B, ...]` before it -> y as u, last state, kept states.

        These are `[B, n, ...]`, after the steps that `window.keep` names, or None.
        """
        raise NotImplementedError

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the same: u `[B, D]`, state `[B, ...]` -> y `[B, D]`, next state."""
        raise NotImplementedError

    def log_abar(self) -> Tensor:
        """Logarithms of the moduli of Abar's eigenvalues, of any shape, below 0."""
        raise NotImplementedError


class TimeInvariant(Layer):
    """A layer whose discretised system depends on parameters only, and is cached while they do not change."""

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[tuple, tuple[Tensor, ...]] | None = None

    def discretise(self) -> tuple[Tensor, ...]:
        """The discretised system, as the subclass's `_discretise` defines it.

        Without gradients to the parameters it is cached until one changes: acting and imagination need it at
        each step.
        """
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters(recurse=False)):
            # Whatever trains the parameters passes here first. Their version alone does not tell: torch's
            # fused optimisers change parameters without incrementing it.
            self._held = None
            return self._discretise()
        if torch.compiler.is_compiling() and self._held is not None:
            return self._held[1]  # of `Stack.hold`; compiled code cannot compare versions
        key = tuple([(id(p), p._version, p.data_ptr()) for p in self._parameters.values() if p is not None])
        if self._held is None or self._held[0] != key:
            self._held = key, self._discretise()
        return self._held[1]

    def _discretise(self) -> tuple[Tensor, ...]:
        raise NotImplementedError


def as_complex(x: Tensor) -> Tensor:
    """`[..., 2]`, real and imaginary part -> `[...]` complex: a view where the memory layout allows one."""
    *strides, last = x.stride()
    fits = last == 1 and x.storage_offset() % 2 == 0 and all(stride % 2 == 0 for stride in strides)
    return torch.view_as_complex(x if fits else x.contiguous())
