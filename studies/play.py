"""Play a run's task beside its world model's dream, which takes the same actions and sees nothing."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete

from agent.agent import Agent, Carry
from agent.run import seams, video
from agent.run.evaluation import EVALUATION_ENVS, EpisodeStatistics
from agent.run.foresight import in_unit
from agent.run.pictures import OBSERVED, PREDICTED, PictureOf, as_bytes, bars
from agent.run.saved import SavedRun
from agent.run.video import Tiles, rgb
from configs.command_line import Parser, Work, add_device, add_run, add_seed, add_video, count, run_of
from envs import VectorDoor
from studies.terminal import ARROWS, Terminal
from worldmodels import State
from worldmodels.encoder_decoder import observations
from worldmodels.latent import MODE, Noise

DIRECTIONS = dict(zip((*ARROWS, *"adws"), (0, 1, 2, 3) * 2, strict=True))
"""Keys in place of the numbers of actions."""


def arguments(parser: Parser) -> None:
    """The run, who acts, and for how long."""
    add_run(parser)
    keys = "you act: a digit is the number of an action, arrows and adws are 0 to 3 [the agent acts]"
    parser.add_argument("--keys", action="store_true", help=keys)
    context = "frames of each episode that the model observes before it dreams [8]"
    parser.add_argument("--context", type=count, default=8, metavar="N", help=context)
    parser.add_argument("--steps", type=count, default=500, metavar="N", help="steps to play [500]")
    add_video(parser, "what is shown")
    add_seed(parser, "of the environment [the run's]")
    add_device(parser)


def prepare(args: argparse.Namespace) -> Work:
    """See `play`."""
    if args.video:
        video.check(args.video)
    person = sys.stdin.isatty() and sys.stdout.isatty()
    if not person and (args.keys or not args.video):
        what = "to read keys from" if args.keys else "to show frames in; --video FILE needs none"
        raise ValueError(f"play found no terminal {what}.")
    run = (SavedRun.of if args.keys else SavedRun.that_acts)(run_of(args), args.device)
    seed = run.config.seed if args.seed is None else args.seed
    space = run.interface.spaces[1]
    if args.keys and action_of("0", space) is None:
        raise ValueError(f"keys give Discrete actions, this task has {space}; without --keys the agent acts.")

    def work() -> tuple[Mapping[str, Any], str]:
        with Terminal() if person else contextlib.nullcontext() as screen:
            result = play(run, args.context, args.steps, seed, screen, args.keys, args.video)
        returns = ", ".join(f"{value:.3g}" for value in result["returns"]) or "none yet"
        text = f"{result['steps']} steps, {result['dreamt']} of them dreamt; returns of episodes: {returns}"
        if result["returns"] and not result["dreamt"]:
            text += f"\nall were observed: episodes no longer than --context {args.context} have no dream"
        return result, f"{text}\nvideo: {args.video}" if args.video else text

    return work


def play(
    run: SavedRun,
    context: int,
    steps: int,
    seed: int,
    screen: Terminal | None = None,
    keys: bool = False,
    film: Path | None = None,
) -> dict[str, Any]:
    """Play with the newest checkpoint, and show each step beside what the model makes of it.

    Args:
        run: see `SavedRun`.
        context: see `Game`.
        steps: at most so many; q or Ctrl-C ends before.
        seed: of the environment and of what is sampled.
        screen: to show it on, or None.
        keys: read actions from the screen's keyboard.
        film: video to write.

    Returns:
        `step` of the checkpoint, `steps` shown, how many of them were `dreamt`, `returns` of episodes that
        ended, `error`: the mean squared error of what was dreamt, None if nothing was.
    """
    agent, step = run.agent()
    envs = run.make_envs(1, seed, EVALUATION_ENVS)
    shown, returns, errors = 0, list[float](), list[float]()
    help_ = "q ends, o lets the model observe again" + "; digits, arrows and adws act" * keys
    with contextlib.ExitStack() as stack:
        stack.callback(envs.close)
        write = stack.enter_context(video.record(film, envs.fps)) if film else None
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))  # a way to end, as q is
        game = Game(agent, envs, context, seams.picture_of(run.config.task, envs.observation_space))
        while shown < steps:
            moment = game.look()
            shown += 1
            returns += moment.returns
            errors += [moment.error] * moment.dreamt
            if write:
                height, width = moment.pictures[0].shape[:2]
                tiles = Tiles(2, height, width, columns=2)
                colour = PREDICTED if moment.dreamt else OBSERVED
                pairs = zip(moment.pictures, moment.texts, strict=True)
                write(tiles.draw([(picture, text, colour) for picture, text in pairs]))
            key, given = "", None
            if screen:
                screen.show(moment.pictures, ["   |   ".join(moment.texts), *moment.more, help_])
                while given is None and (key := screen.key(None if keys else 1 / envs.fps)) not in ("q", ""):
                    given = action_of(key, envs.action_space) if keys else None
                    if key == "o":
                        game.observe_again()
            if key == "q":
                break
            game.act(given)
    error = float(np.mean(errors)) if errors else None
    return {"step": step, "steps": shown, "dreamt": len(errors), "returns": returns, "error": error}


@dataclass
class Moment:
    """One step: what is true beside what the model tells, as pictures uint8 `[h, w, 3]` and as text.

    `texts` belong below the pictures, `more` are further lines; `error` is the mean squared error, `dreamt`
    whether the model did not observe, `returns` that of the episode if it ended.
    """

    pictures: tuple[np.ndarray, np.ndarray]
    texts: tuple[str, str]
    more: list[str]
    error: float
    dreamt: bool
    returns: list[float]


class Game:
    """An episode after the other in one environment, and what the agent's world model makes of it.

    Args:
        agent: whose model it is, and who acts unless others do.
        envs: one environment.
        context: frames of each episode that the model observes. From then on it dreams: it takes the same
            actions and sees nothing, so that its error shows what it did not keep, and what nobody can know.
            (A prediction of one step, from all that was seen, is nearly right in any model.)
        picture_of: what draws symbols.
    """

    def __init__(
        self, agent: Agent, envs: VectorDoor, context: int, picture_of: PictureOf | None = None
    ) -> None:
        self.agent, self.envs, self.context, self.picture_of = agent, envs, context, picture_of
        self.rows, self.carry = envs.reset(), agent.initial(1)
        self.action = np.zeros((1, *agent.codec.shape), envs.action_space.dtype)
        self.statistics = EpisodeStatistics(1)
        self.state: State = agent.backbone.initial(1)  # after all that was observed
        self.dream = self.state
        self.observed, self.count, self.largest = 0, 0, 1.0

    def observe_again(self) -> None:
        """Let the model see the next frames, as many as in the beginning; it has watched meanwhile."""
        self.observed = 0

    def act(self, given: np.ndarray | None) -> None:
        """Take the agent's action, or the one `given`."""
        agent = self.agent
        self.carry, self.action = agent.act(self.carry, self.rows, evaluate=True, counter=self.count)
        if given is not None:
            self.action = given[None]
            encoded = agent.codec.encode(torch.as_tensor(self.action, device=agent.device))
            self.carry = Carry(self.carry.state, encoded)
        self.rows = self.envs.step(self.action)

    @torch.no_grad()
    def look(self) -> Moment:
        """Where the environment is now, and what the model says of it."""
        agent, backbone, rows = self.agent, self.agent.backbone, self.rows
        self.statistics.add(rows)
        self.count += 1
        self.observed = 1 if rows["is_first"][0] else self.observed + 1
        agent.seed_torch("play", self.count)
        data = agent.encoded({**rows, "action": self.action})
        seen, action = observations(data), data["action"]
        noise: Noise = MODE if agent.deterministic_eval else None
        with agent.autocast():
            embed = agent.model.encoder(seen)
            self.state, feature = backbone.observe_step(self.state, embed, action, data["is_first"], noise)
            if self.observed <= self.context:
                self.dream = {key: leaf.clone() for key, leaf in self.state.items()}
            else:
                self.dream, feature = backbone.imagine_step(self.dream, action, noise)
            reward, goes_on = agent.model.outcomes(backbone.policy_input(self.dream), action)
            told = agent.model.decoder.observations(feature)
        true = {key: in_unit(value[0]).cpu().numpy() for key, value in seen.items()}
        shown = {key: value[0].float().cpu().numpy() for key, value in told.items()}
        self.largest = max([self.largest, *(abs(value).max() for value in true.values())])
        error = float(np.mean([np.square(shown[key] - true[key]).mean() for key in true]))
        dreamt, total = self.observed > self.context, self.statistics.returns[0]
        known, foretold = rows["reward"][0], float(agent.model.reward.mean(reward)[0])
        alive = float(agent.model.continues.mean(goes_on)[0])
        return Moment(
            (self._picture(true), self._picture(shown)),
            (
                f"true  step {self.statistics.lengths[0]}",
                f"{'dreamt' if dreamt else 'observed'}  error {error:.2g}",
            ),
            [
                f"return {total:.3g}   last action {self.action[0]}",
                f"reward {known:.2f}, the model's {foretold:.2f}; that the episode goes on: {alive:.2f}",
            ],
            error,
            dreamt,
            [float(total)] if rows["is_last"][0] else [],
        )

    def _picture(self, shown: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of a frame: its symbols or its first image, or else its vectors as bars."""
        if self.picture_of:
            return self.picture_of(shown)
        for value in shown.values():
            if value.ndim == 3:
                return as_bytes(rgb(value))
        return bars(np.concatenate(list(shown.values())), self.largest)


def action_of(key: str, space: gymnasium.Space) -> np.ndarray | None:
    """The action of a key, in a Discrete space; None if it has none."""
    number = int(key) if key.isdecimal() and key.isascii() else DIRECTIONS.get(key)
    known = isinstance(space, Discrete) and number is not None and number < space.n
    return np.array(number) if known else None
