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
from torch import Tensor

from agent.actions import ActionCodec
from agent.actor_critic import ActorCritic
from agent.compiling import compiled
from agent.imagination import STARTS, choose_starts, dream_step, imagine
from agent.optim import Optimiser
from worldmodels import State, WorldModel, make_backbone
from worldmodels.base import keep_steps, merge_rows
from worldmodels.latent import MODE, Noise
from worldmodels.nets import frozen
from worldmodels.world_model import Batch, Counted, observations

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Carry:
    """What acting remembers: recurrent state, leaves `[N, ...]`, and last action vector `[N, A]`."""

    state: State
    action: Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on its parts and on nothing else: (run seed, purpose, counter)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` -> device; a ValueError if CUDA is requested and not available."""
    available = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not available:
        raise ValueError(
            "device 'cuda' asked for, but torch finds no CUDA GPU here. Use --device cpu or auto."
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


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
        self.dtype = _precision(config["precision"])
        self.dream_options = dict(config["imagination"])
        if self.dream_options["starts"] not in STARTS:
            raise ValueError(
                f"imagination.starts must be one of {', '.join(STARTS)}, got {self.dream_options['starts']!r}"
            )
        self.dream_step = compiled(dream_step, self.device) if config["compile"] else dream_step
        self.deterministic_eval = config["eval"]["deterministic"]
        options = dict(config["actor_critic"])
        codec_options = {key: options.pop(key) for key in ("unimix", "min_std", "max_std")}
        self.codec = ActionCodec(action_space, **codec_options)
        self._seed_torch("parameters")
        self.model = WorldModel(
            observation_space,
            lambda embed_size: make_backbone(
                config["kind"], config[config["kind"]], embed_size, self.codec.size
            ),
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
        rates = dict(config["optimiser"])
        model_lr, actor_lr, critic_lr = rates.pop("model_lr"), rates.pop("actor_lr"), rates.pop("critic_lr")
        self.optimisers = {
            "model": Optimiser([self.model], lr=model_lr, **rates),
            "actor": Optimiser([self.actor_critic.actor], lr=actor_lr, **rates),
            "critic": Optimiser([self.actor_critic.critic], lr=critic_lr, **rates),
        }
        self.updates = 0
        self.acts = 0
        self._names: list[str] = []
        self._totals = self._counts = self._finite = torch.zeros(0, device=self.device)
        self._summed = 0

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
        self._seed_torch("evaluate" if evaluate else "act", counter)
        data = self._to_device(
            {key: rows[key] for key in rows if key.startswith("obs/") or key == "is_first"}
        )
        with self._autocast():
            embed = self.model.encoder(observations(data))
            greedy = evaluate and self.deterministic_eval
            noise: Noise = MODE if greedy else None
            state, _ = self.backbone.observe_step(carry.state, embed, carry.action, data["is_first"], noise)
            policy = self.actor_critic.policy(self.backbone.policy_input(state))
            action = policy.mode() if greedy else policy.rsample()
        # Carry the action that the environment gets and replay will hold: a sample may be outside [-1, 1].
        return Carry(state, action.clamp(-1, 1)), self.codec.decode(action)

    def update(self, batch: Mapping[str, np.ndarray]) -> State:
        """One update of world model, actor and critic from a replay batch `[B, T, ...]`.

        The window starts in the states of `start`. Metrics are summed on the device; `metrics` returns their
        means, `check_finite` checks that they are finite.

        Returns:
            the states after step `end` `[B]` of the windows, if given, else at their ends, leaves `[B, ...]`.
        """
        self._seed_torch("update", self.updates)
        data = self._to_device(batch)
        data["action"] = self.codec.encode(data["action"])
        rows, steps = data["is_first"].shape
        state = self.start(data)
        options = self.dream_options
        keep = choose_starts(options["starts"], options["count"], rows, steps, self.device)
        dreams = keep.shape[1]
        if "end" in data:
            keep = torch.cat([keep, data["end"][:, None]], 1)
        with self._autocast():
            loss, rollout, model_metrics = self.model.loss(data, state, keep)
        norms = {"model": self.optimisers["model"].step(loss)}

        kept = {key: leaf.detach() for key, leaf in rollout.kept.items()}
        last = {key: leaf.detach() for key, leaf in rollout.last.items()}
        if "end" in data:
            last = {key: leaf[:, dreams] for key, leaf in kept.items()}
            kept = {key: leaf[:, :dreams] for key, leaf in kept.items()}
            keep = keep[:, :dreams]
        starts = merge_rows(kept)
        through = self.actor_critic.through_dynamics
        # Without a gradient nothing needs freezing, and autocast caches the casts of what is not frozen.
        fixed = frozen(self.model) if through else nullcontext()
        with torch.set_grad_enabled(through), fixed, self._autocast():
            dream = imagine(
                self.backbone,
                starts,
                self.actor_critic.sample,
                options["horizon"],
                self.dream_step,
            )
            # No action led to the start here: its reward is not used, and whether it is terminal is known.
            inputs = self.model.head_input(dream.policy, F.pad(dream.action.clamp(-1, 1), (0, 0, 1, 0)))
            reward = self.model.reward.mean(self.model.reward(inputs))
            alive = self.model.continues.mean(self.model.continues(inputs))
            going_on = 1 - keep_steps(keep, data["is_terminal"]).flatten().float()
            alive = torch.cat([going_on[:, None], alive[:, 1:]], 1)
        with self._autocast():
            actor, critic, metrics = self.actor_critic.loss(dream, reward, alive)
            replayed = self.actor_critic.replay_value and self.actor_critic.replay_loss(
                rollout.policy.detach(), data["reward"], data["is_terminal"], data["is_last"]
            )
        norms["actor"] = self.optimisers["actor"].step(actor)
        norms["critic"] = self.optimisers["critic"].step(critic + self.actor_critic.replay_value * replayed)
        self.actor_critic.update_slow_critic()
        self.updates += 1
        gradients = {f"{name}_gradient_norm": norm for name, norm in norms.items()}
        self._accumulate({**model_metrics, **metrics, "model": loss.detach(), **gradients})
        return last

    @torch.no_grad()
    def start(self, data: Mapping[str, Tensor]) -> State:
        """The states before the windows of a replay batch on the device, leaves `[B, ...]`.

        They are the batch's `state/<leaf>` `[B, ...]`, or the initial state. Where there are rows
        `burn_in/<key>` `[B, n, ...]`, the model runs through the first `burn_in/length` `[B]` of them to get
        there, without a loss.
        """
        given = {key.removeprefix("state/"): value for key, value in data.items() if key.startswith("state/")}
        if "burn_in/length" not in data:
            return given or self.backbone.initial(len(data["is_first"]))
        rows = {
            key.removeprefix("burn_in/"): value for key, value in data.items() if key.startswith("burn_in/")
        }
        length, action = rows["length"], self.codec.encode(rows["action"])
        with self._autocast():
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

    def _accumulate(self, metrics: Mapping[str, Tensor | Counted]) -> None:
        """Add up the metrics, and count for each the updates before the first that was not finite."""
        one = torch.ones((), device=self.device)
        counted = [value if isinstance(value, Counted) else Counted(value, one) for value in metrics.values()]
        totals = torch.stack([value.total.float() for value in counted])
        if not self._summed:
            self._names = list(metrics)
            self._totals = self._counts = self._finite = torch.zeros_like(totals)
        self._totals = self._totals + totals
        self._counts = self._counts + torch.stack([value.number.float() for value in counted])
        self._finite = self._finite + (totals.isfinite() & (self._finite == self._summed))
        self._summed += 1

    def check_finite(self) -> None:
        """Wait for the device and check that all updates since the last `metrics` were finite.

        Raises:
            FloatingPointError: if a loss, gradient norm or other metric was not; names the first and its
                update.
        """
        if not self._summed:
            return
        finite = self._finite.tolist()
        if min(finite) < self._summed:
            first = finite.index(min(finite))
            update = self.updates - self._summed + int(finite[first]) + 1
            mean = self._totals[first] / self._counts[first]
            raise FloatingPointError(
                f"train/{self._names[first]} is not finite (mean {mean:g}) since "
                f"update {update}; the last checkpoint is older than that. Lower the learning rate "
                f"(optimiser.*) or look at the observations and rewards of the environment."
            )

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Means over the updates since the last call, and the backbone's current `diagnostics`.

        A mean that is over some steps only is left out if there were none. Waits for the device.

        Raises:
            FloatingPointError: see `check_finite`.
        """
        self.check_finite()
        if not self._summed:
            return {}
        means = zip(self._names, (self._totals / self._counts).tolist(), self._counts.tolist(), strict=True)
        self._summed = 0
        found = {name: mean for name, mean, count in means if count}
        found |= {name: float(value) for name, value in self.backbone.diagnostics().items()}
        return {f"train/{name}": value for name, value in found.items()}

    @torch.no_grad()
    def open_loop(self, batch: Mapping[str, np.ndarray], context: int) -> dict[str, Any]:
        """Predict what a replay batch shows after `context` steps, given only actions and episode beginnings.

        Returns:
            `true` and `predicted`: observations by key, `[B, T, ...]` numpy (images in [0, 1]); the first
            `context` predictions are reconstructions. `kl`: `[B, T]` nats, filtering the whole window.
        """
        obs, start, embed, action, is_first = self._for_report(batch)
        full = self.backbone.observe(start, embed, action, is_first)
        seen = self.backbone.observe(start, embed[:, :context], action[:, :context], is_first[:, :context])
        _, imagined = self.backbone.imagine(seen.last, action[:, context:], is_first[:, context:])
        predicted = self.model.decoder.observations(torch.cat([seen.features, imagined], 1))
        return {
            "true": {
                key: (value.float() / 255 if value.dtype == torch.uint8 else value).cpu().numpy()
                for key, value in obs.items()
            },
            "predicted": {key: value.cpu().numpy() for key, value in predicted.items()},
            "kl": self.backbone.kl_losses(full)[0].cpu().numpy(),
        }

    @torch.no_grad()
    def policy_inputs(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """What actor and heads see at each step of a replay batch, filtering its windows, `[B, T, P]`."""
        _, start, embed, action, is_first = self._for_report(batch)
        return self.backbone.observe(start, embed, action, is_first).policy.float().cpu().numpy()

    def _for_report(self, batch: Mapping[str, np.ndarray]) -> tuple[Batch, State, Tensor, Tensor, Tensor]:
        """Observations of a replay batch, and what `observe` takes: start, embed, action, is_first."""
        self._seed_torch("report", self.updates)
        data = self._to_device(batch)
        obs = observations(data)
        action = self.codec.encode(data["action"])
        return obs, self.start(data), self.model.encoder(obs), action, data["is_first"]

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue bit for bit."""
        return {
            "model": self.model.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "updates": self.updates,
            "acts": self.acts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.actor_critic.load_state_dict(state["actor_critic"])
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
        }
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def _seed_torch(self, *purpose: str | int) -> None:
        """Like `torch.manual_seed`, which takes 0.4 ms because it goes through all device types."""
        seed = derive_seed(self.seed, *purpose)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _to_device(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {
            key: torch.as_tensor(value).to(self.device, non_blocking=True) for key, value in batch.items()
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype != torch.float32)


def _precision(name: str) -> torch.dtype:
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]
