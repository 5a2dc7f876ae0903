"""Trajectories dreamed by the recurrent mode of the backbone, and which states they start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels import Backbone, State


@dataclass
class Trajectory:
    """N imagined trajectories of horizon H; position 0 is the start state, taken from replay.

    Attributes:
        policy: `[N, H + 1, P]`, for actor, critic, reward and continue.
        action: `[N, H, A]`, the action chosen AT each position but the last.
    """

    policy: Tensor
    action: Tensor


def dream_step(
    backbone: Backbone, act: Callable[[Tensor], Tensor], state: State, inputs: Tensor
) -> tuple[State, Tensor, Tensor]:
    """One imagined step from policy inputs `[N, P]`: next state, its policy inputs, action."""
    action = act(inputs)
    state, _ = backbone.imagine_step(state, action.clamp(-1, 1))
    return state, backbone.policy_input(state), action


def imagine(
    backbone: Backbone,
    state: State,
    act: Callable[[Tensor], Tensor],
    horizon: int,
    step: Callable[..., tuple[State, Tensor, Tensor]] = dream_step,
) -> Trajectory:
    """Roll out `horizon` steps from states with leaves `[N, ...]`.

    `act` maps the policy input `[N, P]` to an action vector `[N, A]`; the model gets it clipped to [-1, 1],
    as the environment and replay do (one-hot vectors are inside). Gradients from later steps to the actions
    are recorded unless the caller has switched that off. `step` may be a compiled `dream_step`.
    """
    policies, actions = [backbone.policy_input(state)], []
    state = backbone.prepare_imagination(state, horizon)
    for _ in range(horizon):
        state, inputs, action = step(backbone, act, state, policies[-1])
        policies.append(inputs)
        actions.append(action)
    return Trajectory(torch.stack(policies, 1), torch.stack(actions, 1))


def choose_starts(kind: str, count: int, rows: int, steps: int, device: torch.device) -> Tensor:
    """Steps of each row that imagination starts from, `[B, n]` int64.

    Args:
        kind: `random` (without replacement within a row), `last` (the last ones of the window) or `all`.
        count: start states of the whole batch; every row gets count / rows of them, at least one.
    """
    each = steps if kind == "all" else min(max(count // rows, 1), steps)
    if kind == "random":
        return torch.rand(rows, steps, device=device).argsort(1)[:, :each]
    return torch.arange(steps - each, steps, device=device).expand(rows, each)
