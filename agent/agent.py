"""The agent: acts through its world model, learns the model, then policy and value in its dreams."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.actions import ActionCodec
from agent.actor_critic import ActorCritic, Critic
from agent.compiling import check_compiler
from agent.exploration import make_explorer
from agent.imagination import Dream, choose_starts, dream_step, imagine
from agent.metrics import Means
from agent.optim import Optimiser, step_together
from worldmodels import State, WorldModel, make_backbone, model_of
from worldmodels.base import Counted, keep_steps, merge_rows
from worldmodels.encoder_decoder import Batch, observations
from worldmodels.latent import MODE, Noise
from worldmodels.nets import frozen

Metrics = dict[str, Tensor | Counted]


@dataclass
class Carry:
    """What acting remembers: recurrent state, leaves `[N, ...]`, and last action vector `[N, A]`."""

    state: State
    action: Tensor


@dataclass
class Window:
    """What the world model made of a replay batch `[B, T, ...]`, without gradients.

    Attributes:
        policy: `[B, T, P]`, policy inputs.
        posterior, prior: `[B, T, S, n]`, as the backbone's latent represents them.
        starts: the states that dreams start from, leaves `[N, ...]`.
        terminal: `[N]` bool, whether these end their episodes.
        after: the states that replay is to keep, leaves `[B, ...]`.
    """

    policy: Tensor
    posterior: Tensor
    prior: Tensor
    starts: State
    terminal: Tensor
    after: State


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on its parts and on nothing else: (run seed, purpose, counter)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


class Agent:
    """World model, actor and critic behind `act` and `update`.

    All randomness of one call comes from (seed, purpose, counter), so an agent restored from `state_dict`
    continues exactly as the saved one would.

    Args:
        observation_space: flat Dict of Box leaves, as `envs.VectorDoor` provides it.
        action_space: Discrete, MultiDiscrete or Box in [-1, 1].
        config: the merged configuration (any nested mapping with the keys of `configs/defaults.yaml`).
        device: where to compute.
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Dict,
        action_space: gymnasium.Space,
        config: Mapping[str, Any],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.seed = config["seed"]
        self.half = config["precision"] == "bfloat16"
        self.dream_options = dict(config["imagination"])
        self.dream_step = dream_step
        if config["compile"]:
            check_compiler(self.device)
            self.dream_step = torch.compile(dream_step, options={"fallback_random": True})
        self.deterministic_eval = config["eval"]["deterministic"]
        options = dict(config["actor_critic"])
        codec_options = {key: options.pop(key) for key in ("unimix", "min_std", "max_std")}
        self.codec = ActionCodec(action_space, **codec_options)
        self.seed_torch("parameters")
        model = model_of(config["backbone"])
        self.model = WorldModel(
            observation_space,
            lambda embed_size: make_backbone(model, config[model], embed_size, self.codec.size),
            encoder=config["encoder"],
            decoder=config["decoder"],
            heads=config["heads"],
            kl=config["kl"],
            recall=config["recall"],
            action_size=self.codec.size,
            action_norm=self.codec.norm,
        ).to(self.device)
        self.backbone = self.model.backbone
        self.actor_critic = ActorCritic(self.backbone.policy_size, self.codec, **options).to(self.device)
        self.explorer = make_explorer(config, self.backbone, self.codec)
        if self.explorer is not None:
            self.explorer.to(self.device)
        self.foreseeing = nn.ModuleList(part for part in (self.model, self.explorer) if part is not None)
        rates = dict(config["optimiser"])
        model_lr, actor_lr, critic_lr = rates.pop("model_lr"), rates.pop("actor_lr"), rates.pop("critic_lr")
        matrices = rates.pop("matrices")
        self.optimisers = {
            "model": Optimiser(self.model, lr=model_lr, matrices=matrices, **rates),
            "actor": Optimiser(self.actor_critic.actor, lr=actor_lr, **rates),
            "critic": Optimiser(self.actor_critic.critic, lr=critic_lr, **rates),
        }
        if self.explorer is not None:
            of_guesses = Optimiser(self.explorer.guesses, lr=model_lr, matrices=matrices, **rates)
            self.optimisers["bonus_guess"] = of_guesses
            self.optimisers["bonus_critic"] = Optimiser(self.explorer.critic, lr=critic_lr, **rates)
        self.means = Means(self.device)
        self.updates = 0
        self.acts = 0

    def initial(self, count: int) -> Carry:
        """What to carry into the first step of `count` environments."""
        return Carry(self.backbone.initial(count), torch.zeros(count, self.codec.size, device=self.device))

    @torch.no_grad()
    def act(
        self, carry: Carry, rows: Mapping[str, np.ndarray], evaluate: bool = False, counter: int | None = None
    ) -> tuple[Carry, np.ndarray]:
        """Filter one row per environment and choose actions in the environment's own format.

        Args:
            carry: from `initial` or the previous call.
            rows: `obs/...` `[N, ...]` and `is_first` `[N]`.
            evaluate: take the most probable latent and action if the configuration says so.
            counter: determines, together with the seed, the randomness of this call; by default the number of
                calls so far. Evaluation passes its own, so that it leaves training untouched.
        """
        if counter is None:
            counter, self.acts = self.acts, self.acts + 1
        self.seed_torch("evaluate" if evaluate else "act", counter)
        data = self.to_device({key: rows[key] for key in rows if key.startswith("obs/") or key == "is_first"})
        greedy = evaluate and self.deterministic_eval
        carry = self.step(carry, observations(data), data["is_first"], greedy)
        return carry, self.codec.decode(carry.action)

    def acting_tensors(self) -> list[Tensor]:
        """The tensors that `act` reads, all of them float32: writing to them changes the agent."""
        parts = self.model.encoder, self.backbone, self.actor_critic.actor
        return [tensor for part in parts for tensor in part.state_dict().values()]

    @torch.no_grad()
    def step(self, carry: Carry, obs: Batch, is_first: Tensor, greedy: bool) -> Carry:
        """Filter one observation per row and choose an action: tensors on the device in, tensors out.

        Args:
            carry: from `initial` or the previous call.
            obs: by name, `[N, ...]`.
            is_first: `[N]` bool.
            greedy: take the most probable latent and action; else they are drawn from torch's generator.

        Returns:
            the state after the observation, and the action chosen there as a vector `[N, A]`.
        """
        noise: Noise = MODE if greedy else None
        with self.autocast():
            embed = self.model.encoder(obs)
            state, _ = self.backbone.observe_step(carry.state, embed, carry.action, is_first, noise)
            policy = self.actor_critic.policy(self.backbone.policy_input(state))
            action = policy.mode() if greedy else policy.rsample()
        # Carry the action that the environment gets and replay will hold: a sample may be outside [-1, 1].
        return Carry(state, action.clamp(-1, 1))

    def update(self, batch: Mapping[str, np.ndarray], behaviour: bool = True, left: float = 1.0) -> State:
        """One update of world model, actor and critic, or of the world model alone, from `[B, T, ...]`.

        The window starts in the states of `start`. Metrics are summed on the device; `metrics` returns their
        means, `check_finite` checks that they are finite.

        Args:
            batch: of replay, or of episodes from disk.
            behaviour: whether actor and critic learn too, in the model's dreams.
            left: share of the run that is still to come, by which `optimiser.cooldown` and
                `explore.share` go.

        Returns:
            the states after step `end` `[B]` of the windows, if given, else at their ends, leaves `[B, ...]`.
        """
        self.seed_torch("update", self.updates)
        for optimiser in self.optimisers.values():
            optimiser.left = left
        if self.explorer is not None:
            self.explorer.left = left
        data = self.encoded(batch)
        window, metrics = self._learn_model(data, behaviour)
        if behaviour:
            metrics |= self._learn_behaviour(data, window, self._dream(window))
        self.updates += 1
        self.means.add(metrics)
        return window.after

    def _learn_model(self, data: Batch, dreams: bool) -> tuple[Window, Metrics]:
        """One step of the world model on a batch on the device; metrics by name. Starts where it `dreams`."""
        rows, steps = data["is_first"].shape
        state, end = self.start(data), data.get("end")
        options = self.dream_options
        starts = torch.zeros(rows, 0, dtype=torch.int64, device=self.device)
        if dreams:
            starts = choose_starts(options["starts"], options["count"], rows, steps, self.device)
        keep = starts if end is None else torch.cat([starts, end[:, None]], 1)
        with self.autocast():
            loss, rollout, metrics = self.model.loss(data, state, keep)
        optimiser = self.optimisers["model"]
        stepped = {"model": loss.detach(), "model_gradient_norm": optimiser.step(loss)}
        stepped["rate_share"] = torch.full((), optimiser.share, device=self.device)
        kept = {key: leaf.detach() for key, leaf in rollout.kept.items()}
        window = Window(
            policy=rollout.policy.detach(),
            posterior=rollout.posterior.detach(),
            prior=rollout.prior.detach(),
            starts=merge_rows({key: leaf[:, : starts.shape[1]] for key, leaf in kept.items()}),
            terminal=keep_steps(starts, data["is_terminal"]).flatten(),
            after={key: leaf.detach() for key, leaf in rollout.last.items()}
            if end is None
            else {key: leaf[:, -1] for key, leaf in kept.items()},
        )
        return window, metrics | stepped

    def _dream(self, window: Window) -> Dream:
        """Dreams from the window's starts, with gradients to the actions if the actor learns through them."""
        through = self.actor_critic.through_dynamics
        # Without a gradient nothing needs freezing, and autocast caches the casts of what is not frozen.
        fixed = frozen(self.foreseeing) if through else nullcontext()
        with torch.set_grad_enabled(through), fixed, self.autocast():
            path = imagine(
                self.backbone,
                window.starts,
                self.actor_critic.sample,
                self.dream_options["horizon"],
                self.dream_step,
            )
            action = path.action.clamp(-1, 1)
            reward, alive = self.model.outcomes(path.policy[1:], action)
            reward, alive = self.model.reward.mean(reward), self.model.continues.mean(alive)
            bonus = None
            if self.explorer is not None and self.explorer.weight:
                bonus = F.pad(self.explorer.guesses.bonus(path.policy[:-1], action), (0, 0, 1, 0))
        # No action led to the start here: its reward is not used, and whether it is terminal is known.
        reward = F.pad(reward, (0, 0, 1, 0))
        return Dream(path, reward, torch.cat([1 - window.terminal.float()[None], alive]), bonus)

    def _learn_behaviour(self, data: Batch, window: Window, dream: Dream) -> Metrics:
        """One step of the actor on dreams, and of the critic on dreams and the replayed window; metrics.

        And, where a bonus was dreamed, of what says it and of its critic.
        """
        learner, optimisers = self.actor_critic, self.optimisers
        critics: list[Critic] = [learner]
        besides: Tensor | float = 0.0
        losses: list[tuple[Optimiser, Tensor]] = []
        explored: Metrics = {}
        with self.autocast():
            if self.explorer is not None and dream.bonus is not None:
                followed = data["action"], window.posterior, window.prior, data["is_first"]
                guess, explored = self.explorer.of_window(window.policy, *followed)
                bonus, besides, more = self.explorer.of_dream(dream, learner.through_dynamics)
                losses = [(optimisers["bonus_guess"], guess), (optimisers["bonus_critic"], bonus)]
                explored.update(more)
                critics.append(self.explorer.critic)
            actor, critic, metrics = learner.loss(dream.path, dream.reward, dream.alive, besides)
            if learner.replay_value:
                ends = data["is_terminal"], data["is_last"]
                replayed = learner.replay_loss(window.policy, data["reward"], *ends)
                critic = critic + learner.replay_value * replayed
                metrics["critic_replayed"] = replayed.detach()
        both = (optimisers["actor"], actor), (optimisers["critic"], critic)
        actor_norm, critic_norm, *_ = step_together(*both, *losses)
        for each in critics:
            each.update_slow_critic()
        return {**metrics, **explored, "actor_gradient_norm": actor_norm, "critic_gradient_norm": critic_norm}

    @torch.no_grad()
    def start(self, data: Batch) -> State:
        """The states before the windows of a replay batch on the device, leaves `[B, ...]`.

        They are the batch's `state/<leaf>` `[B, ...]`, or the initial state. Where there are rows
        `burn_in/<key>` `[B, n, ...]`, the model runs through the first `burn_in/length` `[B]` of them to get
        there, without a loss.
        """
        given = _under("state/", data)
        rows = _under("burn_in/", data)
        if not rows:
            return given or self.backbone.initial(len(data["is_first"]))
        length, action = rows["length"], self.codec.encode(rows["action"])
        with self.autocast():
            embed = self.model.encoder(observations(rows))
            last = (length - 1).clamp(min=0)[:, None]
            kept = self.backbone.observe(given, embed, action, rows["is_first"], last).kept
        # Where there is nothing to run through, the given state is used.
        begun = {key: leaf[:, 0] for key, leaf in kept.items()}
        return {
            key: torch.where((length > 0).reshape(-1, *[1] * (leaf.dim() - 1)), begun[key], leaf)
            for key, leaf in given.items()
        }

    def prepare(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Pin the memory of a batch, if a GPU is to copy it while it computes; any thread may call this."""
        if self.device.type != "cuda":
            return dict(batch)
        return {key: torch.as_tensor(value).pin_memory() for key, value in batch.items()}

    def check_finite(self) -> None:
        """Wait for the device and check that all updates since the last `metrics` were finite.

        Raises:
            FloatingPointError: see `Means.check_finite`.
        """
        self.means.check_finite(self.updates)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Means over the updates since the last call; waits for the device.

        With them, for each layer that tells how long it remembers, the logarithm of the largest modulus in
        Abar, `log_abar/<layer>`; nearer 0 means a longer memory.

        Raises:
            FloatingPointError: see `check_finite`.
        """
        self.check_finite()
        found = self.means.take()
        if found:
            times = enumerate(self.backbone.memory_times())
            found |= {f"log_abar/{n}": -1 / float(steps.max()) for n, steps in times}
        return {f"train/{name}": value for name, value in found.items()}

    def state_dict(self, learning: bool = True) -> dict[str, Any]:
        """What `load_state_dict` needs to continue bit for bit; or, where not `learning`, to act alone."""
        state = {
            "model": self.model.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
            "updates": self.updates,
            "acts": self.acts,
        }
        if learning:
            optimisers = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
            state["optimisers"] = optimisers
            if self.explorer is not None:
                state["explorer"] = self.explorer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any], learning: bool = True) -> None:
        """Continue where the agent of this `state_dict` was; or act as it did, where not `learning`."""
        self.model.load_state_dict(state["model"])
        self.actor_critic.load_state_dict(state["actor_critic"])
        if learning:
            if self.explorer is not None:
                self.explorer.load_state_dict(state["explorer"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][name])
        self.updates, self.acts = state["updates"], state["acts"]

    def parameter_counts(self) -> dict[str, int]:
        """Trained parameters by part."""
        parts = {
            "backbone": self.backbone,
            "model": self.model,
            "actor": self.actor_critic.actor,
            "critic": self.actor_critic.critic,
            "explorer": self.explorer,
        }
        return {
            name: sum(p.numel() for p in part.parameters())
            for name, part in parts.items()
            if part is not None
        }

    def seed_torch(self, *purpose: str | int) -> None:
        """Seed torch from (seed, purpose), like `torch.manual_seed`, which takes 0.4 ms on a CPU.

        That one goes through all device types.
        """
        seed = derive_seed(self.seed, *purpose)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def encoded(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """A replay batch on the device, with its actions as the model's vectors `[B, T, A]`."""
        data = self.to_device(batch)
        return data | {"action": self.codec.encode(data["action"])}

    def autocast(self) -> torch.autocast:
        """Mixed precision, where the configuration asks for it."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def to_device(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """Arrays as tensors on the agent's device."""
        return {
            key: torch.as_tensor(value).to(self.device, non_blocking=True) for key, value in batch.items()
        }


def _under(prefix: str, data: Batch) -> Batch:
    """The entries of a batch whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
