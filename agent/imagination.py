"""Trajectories dreamed by the recurrent mode of the backbone, and which states they start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels import Backbone, State, ranks


@dataclass
class Trajectory:
    """N imagined trajectories of horizon H, time first; position 0 is the start state, taken from replay.

    Attributes:
        policy: `[H + 1, N, P]`, what actor, critic, reward and continue read at each position.
        action: `[H, N, A]`, the action chosen AT each position but the last.
        outputs: `[H, N, O]`, the policy network's outputs that it was drawn from.
    """

    policy: Tensor
    action: Tensor
    outputs: Tensor


@dataclass
class Dream:
    """Imagined trajectories, and what is predicted of each position, `[H + 1, N]`.

    Attributes:
        path: the trajectories.
        reward, alive: reward, and probability that the position is not terminal.
        bonus: for what is not known of the step to there; None where nothing explores.
    """

    path: Trajectory
    reward: Tensor
    alive: Tensor
    bonus: Tensor | None


def dream_step(backbone: Backbone, state: State, action: Tensor) -> tuple[State, Tensor]:
    """One imagined step under actions `[N, A]`: next state, and its policy inputs."""
    state, _ = backbone.imagine_step(state, action)
    return state, backbone.policy_input(state)


def imagine(
    backbone: Backbone,
    state: State,
    act: Callable[[Tensor], tuple[Tensor, Tensor]],
    horizon: int,
    step: Callable[..., tuple[State, Tensor]] = dream_step,
) -> Trajectory:
    """Roll out `horizon` steps from states with leaves `[N, ...]`.

    `act` maps the policy input `[N, P]` to an action vector `[N, A]` and to what it was drawn from, `[N, O]`;
    the model gets the action clipped to [-1, 1], as the environment and replay do (one-hot vectors are
    inside). Gradients from later steps to the actions are recorded unless the caller has switched that off.
    `step` may be a compiled `dream_step`.
    """
    policies, actions, outputs = [backbone.policy_input(state)], [], []
    state = backbone.prepare_imagination(state, horizon)
    for _ in range(horizon):
        action, drawn_from = act(policies[-1])
        state, inputs = step(backbone, state, action.clamp(-1, 1))
        policies.append(inputs)
        actions.append(action)
        outputs.append(drawn_from)
    with torch.enable_grad():  # the policy network's loss goes on from here, whatever else is recorded
        stacked = torch.stack(outputs)
    return Trajectory(torch.stack(policies), torch.stack(actions), stacked)


def choose_starts(kind: str, count: int, rows: int, steps: int, device: torch.device) -> Tensor:
    """Steps of each row that imagination starts from, `[B, n]` int64.

    Args:
        kind: `random` (without replacement within a row), `last` (the last ones of the window) or `all`.
        count: start states of the whole batch; every row gets count / rows of them, at least one.
    """
    each = steps if kind == "all" else min(max(count // rows, 1), steps)
    if kind == "random":
        return ranks.uniform((rows, steps), device=device).argsort(1)[:, :each]
    return torch.arange(steps - each, steps, device=device).expand(rows, each)
