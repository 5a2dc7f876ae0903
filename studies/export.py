"""Write a trained agent to hand on: for programs without this one, or as a small run folder for this one.

For others it is one acting step, by torch.export, ONNX, safetensors: `TrainedAgent.predict` in tensors. What
the environment shows, the state and `episode_start` -> an action as the environment takes it, and the next
state. Latents and actions are the most probable ones, in float32. What was written is opened again, and has
to act as `predict` does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import configs
from agent.agent import Carry
from agent.run import checkpoint
from agent.run.folder import ACTING, RunFolder
from agent.run.trained import TrainedAgent
from configs.command_line import Parser, Work, add_checkpoint, add_run, count, run_of
from envs.interface import space_to_json
from envs.spaces import Leaf, OneHot, at, stretch
from replay.files import publish, writable

EXTRA = ("onnx", "onnxruntime", "onnxscript", "safetensors")
TOLERANCE = 1e-4
"""Largest difference from `predict`, relative where numbers are above 1: float32 sums in another order."""
EPISODE = 50  # random observations, after which another episode begins
KEPT = "sessions.jsonl", "metrics.jsonl", "result.json"  # what plot and report say of a run
ROWS = 3  # of the batch that is tried at the last step; else it is one

Runner = Callable[[list[np.ndarray]], list[np.ndarray]]
"""The inputs of a written step -> its outputs, in the order of `metadata.json`."""


def arguments(parser: Parser) -> None:
    """The run, its checkpoint, the formats, and where the files go."""
    add_run(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new folder of the files")
    formats = (
        "agent.pt2 and, by the extra export, agent.onnx and agent.safetensors; torch: the first alone; "
        "run: a small run folder, with what acts and foresees alone [all]"
    )
    parser.add_argument("--format", choices=("all", "torch", "run"), default="all", help=formats)
    checked = "steps over which the files are compared with the agent [200]"
    parser.add_argument("--check", type=count, default=200, metavar="N", help=checked)
    add_checkpoint(parser)


def prepare(args: argparse.Namespace) -> Work:
    """See `export`."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if args.format == "all" and missing:
        raise ValueError(
            f"agent.onnx and agent.safetensors need what is not installed, {', '.join(missing)}: pip install "
            "-e '.[export]'. --format torch writes agent.pt2 alone, and needs nothing."
        )
    out = writable(args.out, folder=True)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; expected a folder that is not there yet, or an empty one.")
    agent = TrainedAgent.load(run_of(args), "cpu", args.step, args.best)

    def work() -> tuple[dict[str, Any], str]:
        if args.format == "run":
            result = export_run(agent, RunFolder(run_of(args)), out, args.check)
        else:
            result = export(agent, out, args.format == "all", args.check)
        lines = [f"{out}: {', '.join(result['files'])}"]
        if args.format == "torch":
            lines.append("agent.onnx and agent.safetensors are left out (--format torch)")
        checked = result["checked"]
        lines.append(f"largest differences from predict over {args.check:,} steps of {checked['on']}:")
        for name, (action, state) in checked["differences"].items():
            lines.append(f"  {name}: {action:.2g} in actions, {state:.2g} in states")
        return result, "\n".join(lines)

    return work


def export(agent: TrainedAgent, out: Path, everything: bool, steps: int) -> dict[str, Any]:
    """Write agent.pt2, metadata.json and, with `everything`, agent.onnx and agent.safetensors into `out`.

    `out` is not there or empty, and stays so if anything fails; `agent` is on the CPU, and computes in
    float32 from now on. For `steps` what was written is compared with `predict`: in the agent's environment,
    or on random observations where that cannot be made.

    Returns:
        `out`, `files`, and what metadata.json has.

    Raises:
        SystemExit: what was written acts otherwise, or torch has no ONNX for it.
    """
    agent.learner.half = False
    step = ActingStep(agent)
    names, inputs = step.example()
    with torch.no_grad():
        outputs = step(*inputs)  # and layers cache their discretised systems: constants of what is written
        batch = torch.export.Dim("batch", min=1)
        dynamic = pytree.tree_map(lambda _: {0: batch}, inputs)
        program = torch.export.export(step, inputs, dynamic_shapes=dynamic, strict=False)
    returned = ["action", *(f"next_{name}" for name in names if name.startswith("state."))]
    described = {"inputs": _described(names, inputs), "outputs": _described(returned, outputs)}
    metadata: dict[str, Any] = {
        "task": agent.config.task,
        "backbone": agent.config.backbone,
        "step": agent.step,
        "torch": torch.__version__,
        **described,
        "state": "zeros at first; next_state.* is the state.* of the next call; complex numbers are pairs",
        "observation": "as the environment gives it, by leaf; the step flattens it, and finds no fault in it",
        "preprocessing": {name: said for name, (said, _) in step.conversions.items()},
        "spaces": agent.interface.to_json(),
        "flat_spaces": [space_to_json(space) for space in agent.interface.spaces],
    }
    with _new(out) as temporary:
        torch.export.save(program, temporary / "agent.pt2")
        runners = {"agent.pt2": _torch_runner(torch.export.load(temporary / "agent.pt2").module(), inputs)}
        if everything:
            _write_weights(agent, temporary / "agent.safetensors")
            _write_onnx(program, temporary / "agent.onnx", names, returned)
            runners["agent.onnx"] = _onnx_runner(temporary / "agent.onnx", names)
        metadata["checked"] = _compare(agent, runners, steps)
        (temporary / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    return {"out": str(out), "files": _files(out), **metadata}


def export_run(agent: TrainedAgent, run: RunFolder, out: Path, steps: int) -> dict[str, Any]:
    """Write what acts and foresees of a run as a run folder: one checkpoint, no replay and no optimisers.

    Everything that reads a run takes it; training in it does not go on, `train --init` may begin with it.
    `out` and `steps`: see `export`.

    Returns:
        `out`, `files`, `task`, `backbone`, `step`, `checked`.

    Raises:
        SystemExit: what was written acts otherwise.
    """
    learner, config = agent.learner, agent.config
    with _new(out) as temporary:
        anywhere = configs.override(config, {"logdir": "", "device": "auto"})
        publish(temporary / "config.yaml", configs.dump(anywhere), "the configuration")
        publish(temporary / "spaces.json", json.dumps(agent.interface.to_json(), indent=1), "the spaces")
        for name in KEPT:
            if (run.path / name).is_file():
                shutil.copyfile(run.path / name, temporary / name)
        identity = run.identity(*agent.interface.spaces) | {"for": ACTING}
        identity.pop("configuration", None)  # to which later code may add options
        checkpoint.save(
            temporary, agent.step, learner.state_dict(learning=False), None, {}, identity=identity
        )
        step = ActingStep(TrainedAgent.load(temporary, "cpu"))
        checked = _compare(agent, {"the run": _torch_runner(step, step.example()[1])}, steps)
    described = {"task": config.task, "backbone": config.backbone, "step": agent.step}
    return {"out": str(out), "files": _files(out), **described, "checked": checked}


@contextmanager
def _new(out: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `out` unless something fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        temporary = Path(folder) / out.name
        temporary.mkdir()
        yield temporary
        temporary.replace(out)


def _files(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


class ActingStep(nn.Module):
    """What `Observations.flat`, the learner's `step` and `Actions.raw` do, in torch alone.

    Attributes:
        conversions: by leaf of the environment's observations; see `_conversion`.
    """

    def __init__(self, agent: TrainedAgent) -> None:
        super().__init__()
        self.learner, self.interface = agent.learner, agent.interface
        learner, leaves = self.learner, self.interface.observations.leaves
        self.dtype = torch.as_tensor(np.zeros(0, self.interface.actions.given.dtype)).dtype  # of actions
        # The learner is no module: these have the parameters that a step reads.
        self.parts = nn.ModuleList([learner.model.encoder, learner.backbone, learner.actor_critic.actor])
        self.conversions = {name: _conversion(leaf) for name, leaf in leaves.items()}

    def forward(
        self, observation: dict[str, Tensor], state: dict[str, Tensor], episode_start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """By leaf `[N, ...]`; see `_state`; bool `[N]` -> actions `[N, ...]`, and the next state."""
        flat = {name: self.conversions[name][1](value) for name, value in observation.items()}
        carry = Carry({name: leaf for name, leaf in state.items() if name != "action"}, state["action"])
        after = _state(self.learner.step(carry, flat, episode_start, True))
        return self._raw(after["action"]), {name: after[name] for name in state}

    def example(self) -> tuple[list[str], tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
        """The names of the inputs, in order, and inputs of two rows: all zero."""
        observation = {
            name: torch.as_tensor(np.zeros((2, *(leaf.given.shape or ())), leaf.given.dtype))
            for name, leaf in self.interface.observations.leaves.items()
        }
        state = _state(self.learner.initial(2))
        names = [f"observation.{name}" for name in observation] + [f"state.{name}" for name in state]
        return [*names, "episode_start"], (observation, state, torch.zeros(2, dtype=torch.bool))

    def _raw(self, vector: Tensor) -> Tensor:
        """Action vectors `[N, A]` -> the environment's own actions."""
        given = self.interface.actions.given
        shape = (vector.shape[0], *(given.shape or ()))
        if isinstance(given, spaces.Box):
            low, high = torch.as_tensor(given.low), torch.as_tensor(given.high)
            part = (vector.double().reshape(shape) + 1) / 2
            return torch.lerp(low.double(), high.double(), part).to(self.dtype).clamp(low, high)
        parts = vector.split(self.learner.codec.sizes, -1)
        index = torch.stack([part.argmax(-1) for part in parts], -1).reshape(shape)
        return (index + torch.as_tensor(np.asarray(getattr(given, "start", 0)))).to(self.dtype)


def _state(carry: Carry) -> dict[str, Tensor]:
    """What acting remembers, by name in their order: `action`, the last as a vector, and the backbone's."""
    return dict(sorted([("action", carry.action), *carry.state.items()]))


def _conversion(leaf: Leaf) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    """`leaf.convert`, in words, and of a batch in torch; what is out of a Discrete's range has no code."""
    shape, given = leaf.box.shape, leaf.given
    if isinstance(leaf.box, OneHot):
        sizes, start = leaf.box.classes, np.reshape(given.start, -1)  # type: ignore[attr-defined]
        which = np.repeat(np.arange(len(sizes)), sizes)  # of the numbers, an element of the code belongs to
        number, value = map(torch.as_tensor, (which, np.concatenate([*map(np.arange, sizes)]) + start[which]))
        said: dict[str, Any] = {"kind": "one-hot codes", "classes": sizes, "start": start.tolist()}
        return said, lambda x: (x.reshape(x.shape[0], len(sizes))[:, number] == value).float()
    if leaf.axes is None:
        return {"kind": "vector"}, lambda x: x.reshape(x.shape[0], *shape).float()
    order, table = (0, *(axis + 1 for axis in leaf.axes)), stretch(given)  # type: ignore[arg-type]
    values = None if table is None else torch.as_tensor(table)

    def image(x: Tensor) -> Tensor:
        arranged = x.permute(order).reshape(x.shape[0], *shape)
        return arranged if values is None else values[arranged.long()]

    return {"kind": "image", "axes": leaf.axes, "table": None if table is None else table.tolist()}, image


def _described(names: Sequence[str], tensors: Any) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": ["batch", *each.shape[1:]], "dtype": str(each.dtype).removeprefix("torch.")}
        for name, each in zip(names, pytree.tree_leaves(tensors), strict=True)
    ]


def _write_weights(agent: TrainedAgent, path: Path) -> None:
    """World model, actor and critic, by the names that their parameters have here."""
    from safetensors.torch import save

    state = agent.learner.state_dict()
    parts = ((part, key, leaf) for part in ("model", "actor_critic") for key, leaf in state[part].items())
    path.write_bytes(save({f"{part}.{key}": leaf.contiguous() for part, key, leaf in parts}))


def _write_onnx(program: Any, path: Path, inputs: list[str], outputs: list[str]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    # The exporter has complex products and sums, but not the operation that is both.
    apart = {torch.ops.aten.addcmul.default: lambda x, a, b, *, value=1: x + value * (a * b)}
    options: Any = {"input_names": inputs, "output_names": outputs, "external_data": False, "verbose": False}
    try:
        # torch uses what it deprecates
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            torch.onnx.export(program.run_decompositions(apart), f=path, **options)
    except torch.onnx.OnnxExporterError as error:
        raise SystemExit(
            f"run.py: torch {torch.__version__} has no ONNX for this agent: {error.__cause__ or error}\n"
            "Nothing was written; --format torch writes agent.pt2 alone."
        ) from error


def _torch_runner(step: Callable[..., Any], inputs: Any) -> Runner:
    tree = pytree.tree_structure(inputs)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = step(*pytree.tree_unflatten([torch.as_tensor(each) for each in arrays], tree))
        return [each.numpy() for each in pytree.tree_leaves(outputs)]

    return run


def _onnx_runner(path: Path, names: list[str]) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _compare(agent: TrainedAgent, runners: dict[str, Runner], steps: int) -> dict[str, Any]:
    """How far each written step is from `predict` at most, from the same states: in actions, and in states.

    Raises:
        SystemExit: further than `TOLERANCE`.
    """
    env, place = None, agent.config.task
    try:
        env = agent.make_env()
    except (ValueError, ImportError) as error:
        place = f"random observations, for lack of the environment ({error})"
        agent.observation_space.seed(0)
    leaves = agent.interface.observations.leaves.values()
    carry, over, observation = agent.initial_state(), True, None
    found = {name: [0.0, 0.0] for name in runners}
    for number in range(steps):
        if env is None:
            observation, over = agent.observation_space.sample(), number % EPISODE == 0
        elif over:
            observation, _ = env.reset(seed=number)
        before = [leaf.numpy() for leaf in _state(carry).values()]
        action, carry = agent.predict(observation, carry, over)
        seen = [np.asarray(at(observation, leaf.path), leaf.given.dtype)[None] for leaf in leaves]
        wanted = [np.asarray(action)[None], *(leaf.numpy() for leaf in _state(carry).values())]
        rows = ROWS if number == steps - 1 else 1
        for name, run in runners.items():
            outputs = run([np.repeat(each, rows, 0) for each in [*seen, *before, np.array([over])]])
            far = [*map(_distance, outputs, wanted)]
            found[name] = np.maximum(found[name], [far[0], np.max(far[1:])]).tolist()
            if not np.max(found[name]) <= TOLERANCE:  # NaN is not
                raise SystemExit(
                    f"run.py: {name} does not act as predict does: after {number + 1} steps of {place} it is "
                    f"off by {found[name][0]:.2g} in actions and {found[name][1]:.2g} in states, where "
                    f"{TOLERANCE:g} is allowed. Nothing was written."
                )
        if env is not None:
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    if env is not None:
        env.close()
    return {"on": place, "steps": steps, "differences": found, "tolerance": TOLERANCE}


def _distance(given: np.ndarray, right: np.ndarray) -> float:
    """The largest |given - right| / max(1, |right|)."""
    off = np.abs(np.subtract(given, right, dtype=np.float64))
    return float((off / np.maximum(1, np.abs(right))).max(initial=0))
