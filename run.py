"""Command line: train (the default), eval, reproduce, imagine, probe, compare, collect, plot, bench.

It parses, checks and dispatches. A user's mistake (an unknown option, task, backbone or preset, a missing
extra, another run's folder) ends with a message on stderr and exit code 2 before anything is created. What
needs torch is imported by the command that uses it, so that help and messages appear at once.
"""

import ctypes
import fcntl
import importlib.util
import json
import os
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configs
from configs.command_line import (
    Parser,
    add_common,
    add_json,
    add_options,
    add_saved_run,
    add_seed,
    count,
    mistakes_exit_2,
)

if TYPE_CHECKING:
    from envs import VectorDoor
    from replay import Loader

DEVICES = ("auto", "cpu", "cuda")
SEVERAL = 15  # options that differ between two sizes, of which one is chosen where there is a GPU
MEASURES = (
    "layers",
    "world_model",
    "imagination",
    "update",
    "acting",
    "replay",
    "backbones",
    "overhead",
    "states",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (a user's mistake and `--help` raise SystemExit instead)."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and not words[0].startswith("-") else "train"
    if name not in COMMANDS:
        hint = configs.did_you_mean(name, COMMANDS)
        print(
            f"run.py: unknown command '{name}'.{hint} Expected one of {', '.join(COMMANDS)}.", file=sys.stderr
        )
        return 2
    try:
        COMMANDS[name](words)
    except KeyboardInterrupt:
        print("run.py: interrupted.", file=sys.stderr)
        return 130
    return 0


def train(argv: Sequence[str]) -> None:
    """Train an agent online, or resume the run that is already in the folder.

    The first SIGINT or SIGTERM finishes the step in progress, saves and exits with 130 or 143.
    """
    with mistakes_exit_2():
        parser = Parser(
            "train",
            "python run.py [train] [--backbone NAME] [--task TASK] [--logdir DIR] [--seed N] [--steps N]\n"
            "    [--configs NAME ...] [--device auto|cpu|cuda] [--json] [--key.path VALUE ...]",
            "Train an agent online. The same command again goes on with the run in the folder.",
            epilog="Other commands: "
            + ", ".join(f"python run.py {name} --help" for name in COMMANDS if name != "train"),
        )
        add_common(parser)
        add_options(parser)
        args, overrides = parser.parse(argv)
        task, backbone = overrides.pop("task", None), overrides.pop("backbone", None)
        config = _configure(task, backbone, args.configs, overrides)
        logdir = Path(config.logdir or _default_logdir(config))
        _refuse_another_run(config, logdir)
        _check_parts(config)

    from agent import online
    from studies.provenance import record as record_session

    _prepare_torch(config)
    with _alone_in(logdir):
        configs.save(config, logdir / "config.yaml")
        record_session(logdir, ["python", "run.py", *argv])
        try:
            result = online.train(config, _env_maker(config), _replay_maker(config), logdir)
        except online.Stopped as stopped:
            command = shlex.join(["python", "run.py", *argv])
            print(f"run.py: {stopped} and saved in {logdir}; to go on: {command}", file=sys.stderr)
            raise SystemExit(128 + stopped.signal) from None  # as a shell reports a death by this signal
    print(json.dumps(result) if args.json else _summary(config, result))


def evaluate(argv: Sequence[str]) -> None:
    """Evaluate the newest checkpoint of a run."""
    with mistakes_exit_2():
        parser = Parser(
            "eval",
            "python run.py eval --logdir DIR --episodes N [--sampled] [--seed N] [--device auto|cpu|cuda]\n"
            "    [--json]",
            "Evaluate the newest checkpoint of a run with its saved configuration.",
        )
        add_saved_run(parser)
        parser.add_argument(
            "--episodes", type=count, default=10, metavar="N", help="whole episodes to play [10]"
        )
        parser.add_argument(
            "--sampled", action="store_true", help="sample latents and actions, as in training"
        )
        add_seed(parser, "of the environments [the run's]")
        args, _ = parser.parse(argv)
        config = _saved_configuration(_existing_run(args.logdir), args.device)
        if args.sampled:
            config = configs.override(config, {"eval.deterministic": False})

    from agent import evaluation

    _prepare_torch(config)
    seed = config.seed if args.seed is None else args.seed
    result = evaluation.evaluate(config, _env_maker(config), args.logdir, args.episodes, seed)
    print(json.dumps(result) if args.json else _evaluation(config, result))


def reproduce(argv: Sequence[str]) -> None:
    """Repeat the updates at which a run failed because a number was not finite."""
    with mistakes_exit_2():
        parser = Parser(
            "reproduce",
            "python run.py reproduce --logdir DIR [--device auto|cpu|cuda] [--json]",
            "Play the updates again at which a run failed because a loss or gradient was not finite.",
        )
        add_saved_run(parser)
        args, _ = parser.parse(argv)
        if not (args.logdir / "crash").is_dir():
            raise ValueError(
                f"no crash in {args.logdir}: expected {args.logdir / 'crash'}, which a run leaves."
            )
        config = _saved_configuration(args.logdir / "config.yaml", args.device)

    from agent import crash, evaluation

    _prepare_torch(config)
    agent = evaluation.build_agent(config, _env_maker(config), config.seed)
    result = crash.reproduce(agent, args.logdir)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"then: {result['recorded']}")
        print(f"now:  {result['message'] or 'every update is finite, up to ' + str(result['update'])}")
        print(
            f"not finite in the batch of update {result['update']}: {', '.join(result['batch']) or 'nothing'}"
        )


def imagine(argv: Sequence[str]) -> None:
    """Draw what a run's world model remembers and foresees."""
    with mistakes_exit_2():
        parser = Parser(
            "imagine",
            "python run.py imagine --logdir DIR [--out DIR] [--steps N] [--context N] [--seed N] [--json]",
            "Let a run's agent act, predict what it saw from its actions alone, and draw both, the KL by "
            "step since the episode began, and how long the layers' states last.",
        )
        add_saved_run(parser)
        parser.add_argument("--out", type=Path, metavar="DIR", help="where the pictures go [DIR/imagine]")
        parser.add_argument("--steps", type=count, default=64, metavar="N", help="steps to play [64]")
        parser.add_argument("--context", type=count, metavar="N", help="of them observed first [half]")
        add_seed(parser, "of the environments [the run's]")
        args, _ = parser.parse(argv)
        config = _saved_configuration(_existing_run(args.logdir), args.device)

    from studies.imagine import imagine as draw

    _prepare_torch(config)
    out, context = args.out or args.logdir / "imagine", args.context or max(1, args.steps // 2)
    seed = config.seed if args.seed is None else args.seed
    with mistakes_exit_2():  # nothing left to predict
        result = draw(config, _env_maker(config), args.logdir, out, args.steps, context, seed)
    print(json.dumps(result) if args.json else "\n".join(result["files"]))


def probe(argv: Sequence[str]) -> None:
    """Measure what the agents of runs still know of past observations."""
    with mistakes_exit_2():
        parser = Parser(
            "probe",
            "python run.py probe LOGDIR ... [--out FILE.png] [--steps N] [--envs N] [--seed N]\n"
            "    [--device auto|cpu|cuda] [--json]",
            "Let the agents of runs of one task act, and fit linear readouts of earlier observations from "
            "what their actors and heads see: how much of what was seen so many steps ago is still there.",
        )
        add_saved_run(parser, several=True)
        parser.add_argument("--out", type=Path, metavar="FILE.png", help="picture to write [none]")
        parser.add_argument("--steps", type=count, default=100, metavar="N", help="steps to play [100]")
        parser.add_argument(
            "--envs", type=count, metavar="N", help="environments [128; eval.envs where each is a process]"
        )
        add_seed(parser, "of the environments [each run's]")
        args, _ = parser.parse(argv)
        configured = {
            logdir: _saved_configuration(_existing_run(logdir), args.device) for logdir in args.logdirs
        }

    from studies import probe as study

    _prepare_torch(next(iter(configured.values())))
    runs = [(config, _env_maker(config), logdir) for logdir, config in configured.items()]
    first = runs[0][0]
    envs = args.envs or (first.eval.envs if first.envs.mode == "async" else 128)
    with mistakes_exit_2():  # runs of several tasks, too few steps
        result = study.probe(runs, args.steps, envs, args.seed)
    print(study.table(result))
    if args.out:
        print(study.draw(result, args.out))
    if args.json:
        print(json.dumps(result))


def compare(argv: Sequence[str]) -> None:
    """Train and evaluate several backbones with several seeds on one task, everything else equal."""
    with mistakes_exit_2():
        parser = Parser(
            "compare",
            "python run.py compare --task TASK --backbones NAME ... --seeds N --steps N --logdir DIR\n"
            "    [--jobs N] [--configs NAME ...] [--json] [--key.path VALUE ...]",
            "Train and evaluate several backbones with several seeds on one task, everything else equal.",
        )
        parser.add_argument("--task", metavar="TASK", help="the task [the default's]")
        parser.add_argument(
            "--backbones",
            nargs="+",
            required=True,
            metavar="NAME",
            help=f"of {', '.join(configs.backbones())}",
        )
        parser.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds 0 to N-1 of each [3]")
        parser.add_argument("--steps", type=count, metavar="N", help="environment steps of each [the task's]")
        parser.add_argument(
            "--logdir", required=True, type=Path, metavar="DIR", help="folder of all the runs"
        )
        parser.add_argument("--jobs", type=count, default=1, metavar="N", help="runs at the same time [1]")
        add_common(parser)
        add_options(parser, without=("task", "backbone", "seed", "steps", "logdir"))
        args, overrides = parser.parse(argv)
        if len(set(args.backbones)) < len(args.backbones):
            raise ValueError(f"name each backbone once, got --backbones {' '.join(args.backbones)}.")
        chosen = overrides if args.steps is None else overrides | {"steps": args.steps}
        resolved = [_configure(args.task, backbone, args.configs, chosen) for backbone in args.backbones]
        for config in resolved:
            _check_parts(config)
            # finished runs too: an earlier version's defaults may have been others
            for folder in sorted(args.logdir.glob(f"{config.backbone}/seed*")):
                _refuse_another_run(config, folder, ignore=(*configs.FREE_TO_CHANGE, "seed"))

    from studies.compare import compare as run_all

    task, steps = resolved[0].task, resolved[0].steps
    with mistakes_exit_2():  # a folder that holds another comparison
        result = run_all(
            task,
            args.backbones,
            args.seeds,
            steps,
            args.logdir,
            args.jobs,
            args.configs,
            overrides,
            resolved[0].threads,
        )
    if args.json:
        print(json.dumps(result))


def collect(argv: Sequence[str]) -> None:
    """Play episodes with a fixed policy and keep them on disk."""
    with mistakes_exit_2():
        parser = Parser(
            "collect",
            "python run.py collect --policy scripted|random|LOGDIR --out DIR [--task TASK] [--episodes N]\n"
            "    [--seed N] [--jobs N] [--json]",
            "Play episodes with a fixed policy and keep them on disk. The same command again plays what is "
            "missing; the number of processes changes nothing in the data.",
        )
        parser.add_argument("--task", metavar="TASK", help="the task [the run's, where the policy is a run]")
        parser.add_argument(
            "--policy",
            required=True,
            metavar="NAME",
            help="scripted (the task's own), random, or the folder of a run",
        )
        parser.add_argument("--episodes", type=count, default=100, metavar="N", help="how many [100]")
        parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the episodes")
        add_seed(parser, "of environments and policy [0]", default=0)
        parser.add_argument("--jobs", type=count, metavar="N", help="processes [the processor's cores]")
        add_json(parser)
        args, _ = parser.parse(argv)
        config = None
        if args.policy not in ("scripted", "random"):
            if not Path(args.policy).is_dir():
                hint = configs.did_you_mean(args.policy, ("scripted", "random"))
                raise ValueError(
                    f"unknown policy '{args.policy}'.{hint} Expected scripted, random or the folder of a run."
                )
            config = configs.read(_existing_run(Path(args.policy)))
            _check_device(config)
        task = args.task or (config and config.task)
        if not task:
            raise ValueError("name the task to play: --task TASK.")
        _check_task(task, args.seed)

    from studies.collect import fill, prepare

    with mistakes_exit_2():  # no script, a run of another kind of task, a folder that holds other episodes
        prepare(task, args.policy, args.out, args.seed, config)
    result = fill(task, args.policy, args.episodes, args.out, args.seed, args.jobs, config)
    if args.json:
        print(json.dumps(result))
    else:
        got = f"mean return {result['return_mean']:.3g}, {result['length_mean']:.4g} steps"
        print(f"{args.out}: {result['episodes']} episodes of {task}, {got}")


def plot(argv: Sequence[str]) -> None:
    """Draw the learning curves of finished or running runs."""
    with mistakes_exit_2():
        parser = Parser(
            "plot", "python run.py plot LOGDIR ... --out FILE.png", "Draw learning curves of runs."
        )
        parser.add_argument(
            "logdirs",
            nargs="+",
            type=Path,
            metavar="LOGDIR",
            help="run folders, folders of them, or a comparison's compare.json",
        )
        parser.add_argument("--out", required=True, type=Path, metavar="FILE.png", help="picture to write")
        args, _ = parser.parse(argv)
        for logdir in args.logdirs:
            if not logdir.exists():
                raise ValueError(f"no {logdir}: expected the folder of a run or of several, or compare.json.")

    from studies.plots import plot as draw

    with mistakes_exit_2():  # folders without a run, or with nothing to draw yet
        print(draw(args.logdirs, args.out))


def bench(argv: Sequence[str]) -> None:
    """Measure what `--what` names, with the code in `studies/`."""
    with mistakes_exit_2():
        parser = Parser(
            "bench",
            f"python run.py bench [--what {'|'.join(MEASURES)}] [--backbones NAME ...]\n"
            "    [--lengths N ...] [--repeats N] [--picture FILE.png] [--configs NAME ...] [--json]\n"
            "    [--key.path VALUE ...]",
            "Measure time and memory of the same thing for several backbones, turn by turn in one process.",
        )
        parser.add_argument("--what", default="world_model", metavar="NAME", help="[world_model]")
        parser.add_argument(
            "--backbones",
            nargs="+",
            metavar="NAME",
            help=f"of {', '.join(configs.backbones())} [all of them; layers: those that have some]",
        )
        parser.add_argument(
            "--lengths",
            nargs="+",
            type=count,
            metavar="N",
            help="steps a window, where there are windows [the preset's batch_length]",
        )
        parser.add_argument(
            "--repeats",
            type=count,
            default=10,
            metavar="N",
            help="timed calls of each; overhead: updates; states: batches [10]",
        )
        parser.add_argument(
            "--picture", type=Path, metavar="FILE.png", help="draw time and memory against length"
        )
        add_common(parser)
        add_options(parser, without=("backbone", "logdir", "batch_length"))
        args, overrides = parser.parse(argv)
        if args.what not in MEASURES:
            hint = configs.did_you_mean(args.what, MEASURES)
            raise ValueError(f"unknown measure '{args.what}'.{hint} Expected one of {', '.join(MEASURES)}.")
        if args.picture and args.what in ("backbones", "overhead", "states"):
            raise ValueError(f"--picture draws time and memory against length; {args.what} has neither.")
        task = overrides.pop("task", None)
        names = args.backbones or _all_to_measure(args.what)
        resolved = {name: _configure(task, name, args.configs, overrides) for name in names}
        config = resolved[names[0]]
        device = "cuda" if _check_device(config) else "cpu"

    _prepare_torch(config)
    lengths = args.lengths or [config.batch_length]
    result, lines = _measure(args.what, resolved, lengths, args.repeats, device)
    print(lines)
    if args.picture:
        from studies.plots import draw_costs

        print(draw_costs(result, args.picture))
    if args.json:
        print(json.dumps(result))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "reproduce": reproduce,
    "imagine": imagine,
    "probe": probe,
    "compare": compare,
    "collect": collect,
    "plot": plot,
    "bench": bench,
}


def _configure(
    task: str | None, backbone: str | None, presets: Sequence[str], overrides: Mapping[str, Any]
) -> configs.Config:
    """The checked configuration of one run. The quick checks come first, torch is asked for a GPU last."""
    config = configs.load(task, backbone, presets, overrides)
    _check_task(config.task, config.seed)
    return configs.load(task, backbone, presets, overrides, cuda_available=_check_device(config))


def _check_device(config: configs.Config) -> bool:
    """Whether a CUDA GPU is to be used. Raises ValueError if the device is unknown or not available."""
    if config.device not in DEVICES:
        hint = configs.did_you_mean(config.device, DEVICES)
        raise ValueError(f"unknown device '{config.device}'.{hint} Expected one of {', '.join(DEVICES)}.")
    if config.device == "cpu":
        return False
    from agent.agent import choose_device

    return choose_device(config.device).type == "cuda"


def _check_task(task: str, seed: int) -> None:
    """Build one environment. Raises ValueError where there is no such task or its extra is not installed."""
    import envs

    try:
        envs.make(task, seed).close()
    except (ImportError, ValueError) as error:
        if _of_others(error):
            traceback.print_exception(error)
            raise ValueError(f"the environment of task '{task}' cannot be made: {error}") from error
        raise ValueError(str(error)) from error


def _of_others(error: BaseException) -> bool:
    """Whether an error involves code other than ours, gymnasium's and Python's import system."""
    gymnasium = Path(importlib.util.find_spec("gymnasium").origin).parent  # type: ignore[union-attr, arg-type]
    files = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    known = (str(Path(__file__).parent), str(gymnasium), importlib.__path__[0], "<frozen importlib")
    return not all(file.startswith(known) for file in files)


def _check_parts(config: configs.Config) -> None:
    """Build one agent and one replay. Raises ValueError if they refuse a name or a size, the replay's memory
    is too small for the task's steps, or compiling is asked for and not possible."""
    from agent import evaluation
    from agent.agent import Agent, choose_device
    from agent.compiling import check_compiler

    if config.compile:
        check_compiler(choose_device(config.device))
    here = configs.override(config, {"device": "cpu", "compile": False, "envs.mode": "sync"})
    observations, actions = evaluation.spaces_of(_env_maker(here), here.seed)
    Agent(observations, actions, here, "cpu")
    loader = _replay_maker(here)(here.envs.count, Path("replay"), dict)
    loader.replay.check_memory([*observations.values(), actions])


def _default_logdir(config: configs.Config) -> Path:
    """runs/<task>/<backbone>/seed<seed>, without characters of the task's name that do not suit a folder."""
    task = re.sub(r"[^A-Za-z0-9=._-]+", "_", config.task).strip("._")
    return Path("runs") / task / config.backbone / f"seed{config.seed}"


def _refuse_another_run(
    config: configs.Config, logdir: Path, ignore: Sequence[str] = configs.FREE_TO_CHANGE
) -> None:
    from studies.provenance import has_begun

    if logdir.exists() and not logdir.is_dir():
        raise ValueError(f"{logdir} is a file; expected a folder, or a path where there is nothing yet.")
    saved = logdir / "config.yaml"
    if saved.exists() and has_begun(logdir):
        changed = configs.differences(configs.read(saved), config, ignore)
        if changed:
            listed = "\n  ".join(changed)
            size = "its size (--configs) included, " if len(changed) > SEVERAL else ""
            raise ValueError(
                f"{logdir} holds a run that was configured otherwise:\n  {listed}\n"
                f"Give the same options to go on with it, {size}or another --logdir for a new run."
            )


@contextmanager
def _alone_in(logdir: Path) -> Iterator[None]:
    """Lock the folder of a run, created if needed, for this process; a mistake (exit 2) if another has it.

    The system frees the lock when the process ends, however it ends. The file stays: removing it would let
    two processes hold locks on two files of one name.
    """
    path = logdir / ".lock"
    with mistakes_exit_2():
        try:
            logdir.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"{logdir} cannot be written ({error.strerror}: {error.filename}); give another --logdir."
            ) from error
    with lock as file:
        with mistakes_exit_2():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = path.read_text(encoding="utf-8").strip() or "another process"
                raise ValueError(
                    f"{logdir} is in use: {owner} trains in it. Wait for it or stop it (kill -TERM saves "
                    f"first), or give another --logdir."
                ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _existing_run(logdir: Path) -> Path:
    """Path of the saved configuration of a run that has a checkpoint."""
    from studies.provenance import has_checkpoint

    path = logdir / "config.yaml"
    if not path.is_file():
        raise ValueError(f"no run in {logdir}: expected {path}. Train one first, or name another --logdir.")
    if not has_checkpoint(logdir):
        raise ValueError(f"the run in {logdir} has no checkpoint yet: nothing in {logdir / 'checkpoints'}.")
    return path


def _saved_configuration(path: Path, device: str | None) -> configs.Config:
    """A run's configuration, with another device if one is named, checked against what is installed here."""
    config = configs.read(path)
    if device is not None:
        config = configs.override(config, {"device": device})
    _check_task(config.task, config.seed)
    _check_device(config)
    return config


def _prepare_torch(config: configs.Config) -> None:
    """Threads; and let glibc keep big blocks for reuse: returning them to the system slows CPU training."""
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _all_to_measure(what: str) -> list[str]:
    """The names that `bench` measures if none are given."""
    names = configs.backbones()
    return [name for name in names if what != "layers" or configs.load(backbone=name).kind == "s4wm"]


def _measure(
    what: str, resolved: Mapping[str, configs.Config], lengths: Sequence[int], repeats: int, device: str
) -> tuple[dict[str, Any], str]:
    """What `bench --what` measures of each configuration, and the table of it."""
    if what == "backbones":
        from studies.components import components, table

        result = components(resolved, lengths[0], repeats, device)
    elif what == "overhead":
        from studies.overhead import overhead, table

        result = overhead(resolved, _makers(resolved), repeats, device)
    elif what == "states":
        from studies.states import MODES, states, table

        modes = {
            f"{name} {mode}": configs.override(
                config, {"replay.initial_state": mode, "batch_length": lengths[0]}
            )
            for name, config in resolved.items()
            for mode in MODES
        }
        result = states(modes, _makers(modes), repeats)
    else:
        from studies.bench import bench as measure
        from studies.bench import table

        with mistakes_exit_2():  # a layer that is none, or a backbone without layers
            result = measure(what, resolved, lengths, repeats, device)
    return result, table(result)


def _makers(resolved: Mapping[str, configs.Config]) -> dict[str, tuple[Any, Any]]:
    return {name: (_env_maker(config), _replay_maker(config)) for name, config in resolved.items()}


def _env_maker(config: configs.Config) -> "Callable[[int, int, int], VectorDoor]":
    """`make_envs(num_envs, seed, first_index)` for the agent, which knows nothing of envs/."""
    import envs

    def make_envs(num_envs: int, seed: int, first_index: int) -> "VectorDoor":
        options = config.envs
        return envs.make_vector(
            config.task, num_envs, seed, options.mode, first_index, options.timeout, options.restarts
        )

    return make_envs


def _replay_maker(config: configs.Config) -> "Callable[..., Loader]":
    """`make_replay(streams, folder, prepare)` for the agent, which knows nothing of replay/."""
    import replay

    def make_replay(streams: int, folder: Path | None, prepare: "Callable[[Any], Any]") -> "Loader":
        sizes = {"batch_size": config.batch_size, "batch_length": config.batch_length, "seed": config.seed}
        return replay.Loader(replay.Replay(streams=streams, folder=folder, **sizes, **config.replay), prepare)

    return make_replay


def _evaluation(config: configs.Config, result: Mapping[str, Any]) -> str:
    got = f"mean return {result['return_mean']:.3g} (standard deviation {result['return_std']:.2g})"
    played = f"{result['episodes']} episodes of {result['length_mean']:.4g} steps"
    cut = f", {result['cut']} of them cut at {config.eval.max_steps:,} (eval.max_steps)"
    return f"{config.task} with {config.backbone}: {got} over {played}{cut if result['cut'] else ''}"


def _summary(config: configs.Config, result: Mapping[str, Any]) -> str:
    """What a person wants to read when a run ends, with the recorded returns of the other backbones."""
    from studies.records import recorded

    lines = [
        _evaluation(config, result),
        f"after {result['steps']:,} environment steps, {result['updates']:,} updates, "
        f"{result['seconds']:,.0f} s",
        *recorded(config.task, config.backbone),
        f"run folder: {result['logdir']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
