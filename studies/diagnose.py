"""Say where a fact is lost between what an agent sees and what it does.

A task tells facts about its episodes that no agent is shown as `info["probe"]`: whole numbers, -1 where one
does not hold. One of them may be `answer`, the action that is right at a step that asks for one. They are
read from what is computed on the way to an action: from the latent, which tells of the frame; from the
features (h, z); from what actor and reward network read. Then these networks are asked.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from tqdm import tqdm

import configs
from agent.agent import Agent
from agent.run import sources
from agent.run.data import Episode
from agent.run.foresight import ROWS, encoded, predicted_reward, stacked, steps
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, add_device, add_episodes, add_run, run_of
from replay.rows import Rows
from studies import readout, tables
from worldmodels import State
from worldmodels.latent import MODE, Noise

ANSWER = "answer"
EPISODES = 1000
FITTED = 0.75  # of the episodes, where none were fitted to; the others are for the scores
PLACES = {"latent": "in z", "features": "in (h, z)", "policy": "in what the actor reads"}
"""Where facts are looked for: z, (h, z), and what actor, critic, reward and continue networks read."""
HOW = ("observed", "imagined")
QUARTERS = 4
MOST_CASES = 16
NETWORKS = {"reward": "the reward network says it for", "actor": "the actor takes it for"}
WHO = {
    "linear": "a linear readout",
    "mlp": "a network's readout",
    "reward": "the reward network",
    "actor": "the actor",
}


def arguments(parser: Parser) -> None:
    """The run, and the episodes."""
    add_run(parser)
    add_device(parser)
    data = "episodes of collect, such as those of --policy RUN [those the run was fitted to]"
    add_episodes(parser, data, "of each, the others imagined [all]", EPISODES)


def prepare(args: argparse.Namespace) -> Work:
    """See `choose` and `diagnose`."""
    run = SavedRun.of(run_of(args), args.device)
    if args.data:
        run.say_if_unlike(args.data)
    fitted, held = choose(run, args.episodes, args.data)
    load = partial(Episode(*run.interface.spaces).load, probes=True)
    first = load(held[0])
    if args.context and args.context >= len(first["reward"]) - 1:
        raise ValueError(
            f"--context must leave a step to imagine, got {args.context}: {held[0]} has no more."
        )
    if not facts_of(first):
        raise ValueError(
            f"the episodes in {held[0].parent} tell no fact: their task gives no whole numbers as "
            f"info['probe'] (docs/adding_a_task.md), or did not when they were collected."
        )

    def work() -> tuple[dict[str, Any], str]:
        agent, step = run.agent()
        found = diagnose(agent, map(load, fitted), map(load, held), args.context, run.data is None)
        result = {"task": run.config.task, "backbone": run.config.backbone, "step": step} | found
        return result, "\n".join(lines(result))

    return work


def choose(run: SavedRun, episodes: int, folder: Path | None) -> tuple[list[Path], list[Path]]:
    """The episodes that readouts are fitted to, and others that they are judged by.

    Raises:
        ValueError: there are none, or too few to divide.
    """
    if run.data is not None:
        return run.data.paths("train")[:episodes], run.data.held_out(folder)[:episodes]
    if folder is None:
        raise ValueError(
            f"{run.folder} keeps no whole episodes: give as --data what `python run.py collect --policy "
            f"{run.folder} --episodes 1000 --out DIR` writes."
        )
    source = sources.of(folder)
    paths = [source.path_of(number) for number in source.numbers()][:episodes]
    of = round(FITTED * len(paths))
    if not 0 < of < len(paths):
        raise ValueError(f"{folder} holds {len(paths)} episodes, of which a part is needed for the scores.")
    return paths[:of], paths[of:]


def facts_of(episode: Rows) -> dict[str, np.ndarray]:
    """The facts that an episode tells, `[T]` each; of several side by side, `[N, T]`."""
    told = {key.removeprefix("probe/"): value for key, value in episode.items() if key.startswith("probe/")}
    steps = episode["reward"].shape
    return {name: value for name, value in told.items() if value.shape == steps and value.dtype.kind in "iu"}


@dataclass
class Gathered:
    """What was computed at the steps that are looked at, in n of them over all episodes.

    Attributes:
        inputs: (how, place) -> `[n, d]`; how is `observed` or `imagined`.
        facts: name -> `[n]`.
        chosen: (how, network) -> `[n]`, the action that the network prefers.
        latents: `[T, N, z]`, of all steps of the N episodes.
        constant: name -> `[N]`, facts that do not change in an episode.
        reached: `[N]`, whether an episode comes to a step that asks for an answer.
        quarter: `[n]`, 0 to 3, of the steps of its episode that are looked at.
        whole: name -> `[N]`, facts that do not change while they hold in an episode, -1 where they never do.
        returns: `[N]`.
    """

    inputs: dict[tuple[str, str], Tensor]
    facts: dict[str, Tensor]
    chosen: dict[tuple[str, str], Tensor]
    latents: Tensor
    constant: dict[str, Tensor]
    reached: Tensor
    quarter: Tensor
    whole: dict[str, np.ndarray]
    returns: np.ndarray


def diagnose(
    agent: Agent, fitted: Iterable[Rows], held: Iterable[Rows], context: int | None, acts: bool
) -> dict[str, Any]:
    """Read facts from what a model computes, and ask its networks for the right action.

    Looked at are the steps at which an `answer` is right or, without that fact, the last step of an episode
    at which an action is taken.

    Args:
        agent: the agent.
        fitted, held: episodes that readouts are fitted to, and those of the scores.
        context: frames that are observed, the others being imagined; None to observe all.
        acts: whether the actor was trained.

    Returns:
        `episodes` and `steps`, of the scores; `reached`, the share of episodes that come to a step that asks.
        `facts`: by name `guess`, the share of the commonest value; and by how the state came about
        (`observed` or `imagined`) and place, the share of steps at which a readout tells the fact, `linear`
        or an `mlp`. `seen`: by name of a fact that holds for a whole episode, the `frame` whose latent tells
        most of it (in the fitted episodes), and which share it tells. `chosen`: by how and network (`reward`:
        what a dreamed step with each action brings, where any answer is rewarded at once; `actor`), how often
        the action preferred is the answer. `quarters`: by how, and what tells the answer (`linear` and `mlp`,
        of what the actor reads, and the networks), the same four times, for the first quarter of the steps of
        an episode to the last; empty where four are not looked at. `cases`: for each combination of facts
        that do not change while they hold (-1: they never did), these, the number of `episodes`, fitted ones
        too, and their mean `return`; empty where there are more than `MOST_CASES`.

    Raises:
        configs.Mistake: no episode comes to a step that is looked at.
    """
    train, test = (gather(agent, each, context, acts) for each in (fitted, held))
    agent.seed_torch("diagnose")
    facts: dict[str, Any] = {}
    quarters: dict[str, dict[str, list[float]]] = {}
    parted = len(test.quarter.unique()) == QUARTERS
    for name in tqdm(sorted(test.facts.keys() & train.facts.keys()), unit="fact"):
        true, truth = train.facts[name], test.facts[name]
        facts[name] = {"guess": _share(true.mode().values, truth)}
        for (how, place), inputs in train.inputs.items():
            read = {
                "linear": readout.linear(inputs, true),
                "mlp": readout.network(inputs, true),
            }
            told = {kind: reader(test.inputs[how, place]) for kind, reader in read.items()}
            facts[name].setdefault(how, {})[place] = {kind: _share(it, truth) for kind, it in told.items()}
            if name == ANSWER and place == "policy" and parted:
                quarters[how] = {kind: _by_quarter(it, truth, test.quarter) for kind, it in told.items()}
    chosen: dict[str, dict[str, float]] = {}
    for (how, network), action in test.chosen.items():
        chosen.setdefault(how, {})[network] = _share(action, test.facts[ANSWER])
        if parted:
            quarters[how][network] = _by_quarter(action, test.facts[ANSWER], test.quarter)
    return {
        "episodes": len(test.reached),
        "steps": len(next(iter(test.facts.values()))),
        "reached": float(test.reached.float().mean()),
        "facts": facts,
        "seen": {name: _seen(train, test, name) for name in test.constant if name in train.constant},
        "chosen": chosen,
        "quarters": quarters,
        "cases": _cases(train, test),
    }


def _cases(*parts: Gathered) -> list[dict[str, Any]]:
    """Mean return by what the facts were: where one of few is never got right, it is not chance."""
    names = [name for name in parts[0].whole if all(name in part.whole for part in parts)]
    if not names:
        return []
    facts = np.concatenate([np.stack([part.whole[name] for name in names], 1) for part in parts])
    returns = np.concatenate([part.returns for part in parts])
    kinds, which = np.unique(facts, axis=0, return_inverse=True)
    if len(kinds) > MOST_CASES:
        return []
    return [
        {
            "facts": dict(zip(names, kind.tolist(), strict=True)),
            "episodes": int((which == number).sum()),
            "return": float(returns[which == number].mean()),
        }
        for number, kind in enumerate(kinds)
    ]


def _seen(train: Gathered, test: Gathered, name: str) -> dict[str, float]:
    """The frame whose latent tells most of a fact, and the share of episodes in which it does."""
    true, best, share, reader = train.constant[name], 0, -1.0, None
    for frame, latent in enumerate(train.latents[: len(test.latents)]):
        read = readout.linear(latent.float(), true)
        if (fits := _share(read(latent.float()), true)) > share:
            best, share, reader = frame, fits, read
    assert reader is not None
    return {"frame": best, "linear": _share(reader(test.latents[best].float()), test.constant[name])}


@torch.no_grad()
def gather(agent: Agent, episodes: Iterable[Rows], context: int | None, acts: bool) -> Gathered:
    """Run through episodes and keep what the readouts need."""
    inputs: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
    facts: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    chosen: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
    constant: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    quarter: list[np.ndarray] = []
    whole: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    returns: list[np.ndarray] = []
    latents: list[Tensor] = []
    reached: list[np.ndarray] = []
    paid = False
    waiting, size = iter(episodes), agent.backbone.latent.size
    while taken := list(islice(waiting, ROWS)):
        batch = stacked(taken)
        there, known = batch.pop("there"), facts_of(batch)
        acted = there & ~batch["is_last"]
        asked = np.asarray(acted & (known[ANSWER] >= 0)) if ANSWER in known else _last(acted)
        reached.append(np.asarray(asked.any(1)))
        if context:
            asked[:, :context] = False
        paid = paid or bool(batch["reward"][:, 1:][asked[:, :-1]].any())
        returns.append(np.where(there, batch["reward"], 0).sum(1))
        for name, values in known.items():
            most = np.where(there, values, -1).max(1)
            if ((values == most[:, None]) | (values < 0) | ~there).all():
                whole[name].append(most)
            low, high = (getattr(values, kind)(1) for kind in ("min", "max"))
            if (low == high).all() and (low >= 0).all():
                constant[name].append(low)
        part = QUARTERS * (asked.cumsum(1) - 1) // np.maximum(asked.sum(1), QUARTERS)[:, None]
        data, of_batch = encoded(agent, batch), []
        for t, step in enumerate(steps(agent, data, context or there.shape[1])):
            of_batch.append(step.feature[:, -size:].half().cpu())
            rows = torch.as_tensor(np.flatnonzero(asked[:, t]), device=agent.device)
            if not len(rows):
                continue
            for name, values in known.items():
                facts[name].append(values[asked[:, t], t])
            quarter.append(part[asked[:, t], t])
            views = (("observed", step.state, step.feature), ("imagined", step.dream, step.dreamed))
            with agent.autocast():
                for how, state, feature in views[: 2 if context else 1]:
                    policy, feature = agent.backbone.policy_input(state)[rows], feature[rows]
                    for place, value in zip(PLACES, (feature[:, -size:], feature, policy), strict=True):
                        inputs[how, place].append(value.float())
                    if ANSWER in known and isinstance(agent.codec.space, spaces.Discrete):
                        begun = state if how == "imagined" else agent.backbone.prepare_imagination(state, 1)
                        chosen[how, "reward"].append(_best(agent, begun)[rows])
                        if acts:
                            chosen[how, "actor"].append(agent.actor_critic.policy(policy).mode().argmax(-1))
        latents.append(torch.stack(of_batch))
    if not facts:
        raise configs.Mistake(f"none of the {sum(map(len, reached))} episodes comes to a step that asks.")
    if not paid:  # what follows an answer later is not for the reward network to tell
        chosen = defaultdict(list, {key: each for key, each in chosen.items() if key[1] != "reward"})
    longest = max(len(each) for each in latents)
    device = agent.device
    return Gathered(
        inputs={key: torch.cat(each) for key, each in inputs.items()},
        facts={name: torch.as_tensor(np.concatenate(each), device=device) for name, each in facts.items()},
        chosen={key: torch.cat(each) for key, each in chosen.items()},
        latents=torch.cat([_longer(each, longest) for each in latents], 1).to(device),
        constant={
            name: torch.as_tensor(np.concatenate(each), device=device)
            for name, each in constant.items()
            if len(each) == len(latents)
        },
        reached=torch.as_tensor(np.concatenate(reached)),
        quarter=torch.as_tensor(np.concatenate(quarter), device=device),
        whole={name: np.concatenate(each) for name, each in whole.items() if len(each) == len(latents)},
        returns=np.concatenate(returns),
    )


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `diagnose` found, for reading: each share first read linearly, then by a network."""
    yield (
        f"{found['task']} with {configs.label(found['backbone'])}, step {found['step']:,}: "
        f"{found['steps']:,} steps in {found['reached']:.0%} of {found['episodes']:,} episodes"
    )
    rows = [
        (name, how, of["guess"], of[how]) for name, of in found["facts"].items() for how in HOW if how in of
    ]
    columns: tables.Columns = {
        "fact": lambda row: row[0],
        "state": lambda row: row[1],
        "guess": lambda row: f"{row[2]:.0%}",
        **{heading: partial(_cell, place) for place, heading in PLACES.items()},
    }
    yield from tables.text(rows, columns).splitlines()
    for name, seen in found["seen"].items():
        yield f"{name}: the latent of frame {seen['frame']} tells {seen['linear']:.0%} of it linearly"
    for how, networks in found["chosen"].items():
        told = ", ".join(f"{NETWORKS[network]} {share:.0%}" for network, share in networks.items())
        yield f"the right action, {how}: {told}"
    for how, told_by in found["quarters"].items():
        for who, shares in told_by.items():
            listed = ", ".join(f"{share:.0%}" for share in shares)
            yield f"the same by quarters of an episode's answers, {how}, {WHO[who]}: {listed}"
    for case in found["cases"]:
        facts = ", ".join(f"{name} {value}" for name, value in case["facts"].items())
        yield f"return of {case['episodes']:,} episodes with {facts}: {case['return']:.3g}"


def _cell(place: str, row: tuple[str, str, float, Mapping[str, Mapping[str, float]]]) -> str:
    read = row[3][place]
    return f"{read['linear']:.0%} {read['mlp']:.0%}"


def _best(agent: Agent, state: State) -> Tensor:
    """The action after which a dreamed step is worth most, `[N]`, from a state prepared for one."""
    noise: Noise = MODE if agent.deterministic_eval else None
    worth = []
    for vector in torch.eye(agent.codec.size, device=agent.device):
        begun = {key: leaf.clone() for key, leaf in state.items()}  # a step may overwrite it
        action = vector.expand(len(next(iter(state.values()))), -1)
        after, _ = agent.backbone.imagine_step(begun, action, noise)
        worth.append(predicted_reward(agent, after, action))
    return torch.stack(worth).argmax(0)


def _last(acted: np.ndarray) -> np.ndarray:
    """The last step of each row that is acted on, `[N, T]` bool."""
    steps = np.arange(acted.shape[1])
    return acted & (steps == np.where(acted, steps, -1).max(1)[:, None])


def _longer(latents: Tensor, steps: int) -> Tensor:
    """`[T, N, z]` with the last one repeated up to so many steps."""
    return torch.cat([latents, latents[-1:].expand(steps - len(latents), -1, -1)])


def _by_quarter(told: Tensor, true: Tensor, quarter: Tensor) -> list[float]:
    return [_share(told[quarter == part], true[quarter == part]) for part in range(QUARTERS)]


def _share(told: Tensor, true: Tensor) -> float:
    return float((told == true).float().mean())
