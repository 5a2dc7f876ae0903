"""Command line: train (the default), and the other commands by name; `python run.py --help`.

A command is parsed and checked first, then it works. A user's mistake (an unknown option, task, backbone or
preset, a missing extra, another run's folder) ends with a message on stderr and exit code 2 before anything
is created. What needs torch is imported by the command that uses it, so that help and most messages appear at
once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import configs
from configs.command_line import (
    Command,
    Parser,
    Work,
    add_checkpoint,
    add_configuration,
    add_device,
    add_run,
    add_seed,
    add_video,
    count,
    exit_2_on,
    place,
    run_of,
)


class Train:
    """Train an agent online. The same command again goes on with the run in the folder."""

    @staticmethod
    def arguments(parser: Parser) -> None:
        parser.epilog = "Other commands: " + ", ".join(f"python run.py {name} --help" for name in COMMANDS)
        add_configuration(parser)
        add_run(parser, "folder of the run [runs/TASK/BACKBONE/seedN]")
        init = "run, such as one of fit, whose world model a new run begins with [none]"
        parser.add_argument("--init", type=Path, metavar="RUN", help=init)

    @staticmethod
    def prepare(args: argparse.Namespace) -> Work:
        options = dict(args.overrides)
        task, backbone = options.pop("task", None), options.pop("backbone", None)
        if args.run is not None:
            options["logdir"] = str(run_of(args))
        # Before torch is there: what is misspelt is said at once.
        asked = configs.load(task, backbone, args.configs, options)

        from agent.run import machine
        from agent.run.folder import RunFolder
        from agent.run.job import Job
        from agent.run.loop import Training
        from agent.run.saved import SavedRun
        from agent.run.seams import configure
        from agent.run.session import carry_out

        folder = RunFolder.of(asked)
        given = (*args.overrides, *args.configs, args.init)
        if args.run is not None and not any(given) and folder.saved() is None:
            raise ValueError(
                f"no run in {args.run}. To begin one there, say of what, such as --task memory_chain "
                f"--logdir {args.run}."
            )
        config = configure(task, backbone, args.configs, options, folder.saved())
        changed = folder.refuse_another(config)
        for line in configs.inert(config, options):
            Job().report(f"run.py: {line}")
        machine.prepare(config.threads)
        anew = args.init is not None and not folder.has_checkpoint()
        trained = SavedRun.of(args.init, config.device).agent_for(config) if anew else None
        training = Training(config, folder)
        if trained is not None:
            training.agent.model.load_state_dict(trained.model.state_dict())
            training.job.report(f"run.py: world model of {args.init}, {trained.updates:,} updates")
        command = ["python", "run.py", *args.argv]

        def work() -> tuple[Mapping[str, Any], str]:
            result = carry_out(training, training.collector.interface, command, changed)
            return result, _summary(config, result) if training.job.leads else ""

        return work


class Evaluate:
    """Evaluate the newest checkpoint of a run, or another, with its saved configuration."""

    @staticmethod
    def arguments(parser: Parser) -> None:
        add_run(parser)
        parser.add_argument(
            "--episodes", type=count, default=10, metavar="N", help="whole episodes to play [10]"
        )
        parser.add_argument(
            "--sampled", action="store_true", help="sample latents and actions, as in training"
        )
        parser.add_argument(
            "--task",
            metavar="NAME",
            help="another one of the same spaces, such as other arguments [the run's]",
        )
        add_checkpoint(parser)
        add_video(parser, "the episodes")
        add_seed(parser, "of the environments [the run's]")
        add_device(parser)

    @staticmethod
    def prepare(args: argparse.Namespace) -> Work:
        from agent.run import video
        from agent.run.evaluation import evaluate
        from agent.run.saved import SavedRun

        if args.video:
            video.check(args.video)

        run = SavedRun.that_acts(run_of(args), args.device, args.task)
        if args.sampled:
            run.config = configs.override(run.config, {"eval.deterministic": False})
        seed = run.config.seed if args.seed is None else args.seed

        def work() -> tuple[Mapping[str, Any], str]:
            result = evaluate(run, args.episodes, seed, args.video, args.step, args.best)
            text = f"{_evaluation(run.config, result)}, at step {result['step']:,}"
            return result, f"{text}\nvideo: {args.video}" if args.video else text

        return work


COMMANDS: dict[str, str | type[Command]] = {
    "train": Train,
    "eval": Evaluate,
    "reproduce": "agent.run.crash",
    "fit": "studies.fit",
    "foresee": "studies.foresee",
    "study": "studies.study",
    "imagine": "studies.imagine",
    "probe": "studies.probe",
    "diagnose": "studies.diagnose",
    "draw": "studies.draw",
    "compare": "studies.compare",
    "scores": "studies.scores",
    "collect": "studies.collect",
    "plot": "studies.plots",
    "play": "studies.play",
    "report": "studies.report",
    "bench": "studies.bench",
    "scale": "studies.scale",
    "card": "studies.card",
    "tracking": "studies.tracking",
    "gallery": "studies.gallery",
    "same": "studies.same",
    "results": "studies.results",
    "verify": "studies.verify",
    "export": "studies.export",
}
"""Name of a command -> what it is; a module that is one has `arguments` and `prepare`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (a user's mistake and `--help` raise SystemExit instead)."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and not words[0].startswith("-") else "train"
    rank, ranks = place()
    if name not in COMMANDS:
        hint = configs.did_you_mean(name, COMMANDS)
        print(
            f"run.py: unknown command '{name}'.{hint} Expected one of {', '.join(COMMANDS)}.", file=sys.stderr
        )
        return 2
    if ranks > 1 and name not in ("train", "bench"):
        print(f"run.py: torchrun is for train and bench; start '{name}' with python.", file=sys.stderr)
        return 2
    found = COMMANDS[name]
    try:
        command: Any = importlib.import_module(found) if isinstance(found, str) else found
        parser = Parser(name, (command.__doc__ or "").partition("\n")[0])
        command.arguments(parser)
        args = parser.parse(words)
        with contextlib.ExitStack() as around:
            if args.json:
                around.enter_context(stdout_for_results())
            if ranks > 1:
                from agent.run.job import begun

                around.enter_context(begun())
            if not rank:
                for line in args.twice:
                    print(f"run.py: {line}", file=sys.stderr)
            with exit_2_on(ValueError):
                work = command.prepare(args)
            with exit_2_on(configs.Mistake):
                result, text = work()
    except KeyboardInterrupt:
        print("run.py: interrupted.", file=sys.stderr)
        return 130
    if rank:
        return 0
    with contextlib.suppress(BrokenPipeError):  # nobody reads on; what was to be done is done
        print(json.dumps(result) if args.json else text, flush=True)
    return 0


def _evaluation(config: configs.Config, result: Mapping[str, Any]) -> str:
    got = f"mean return {result['return_mean']:.3g} (standard deviation {result['return_std']:.2g})"
    played = f"{result['episodes']} episodes of {result['length_mean']:.4g} steps"
    cut = f", {result['cut']} of them cut at {config.eval.max_steps:,} (eval.max_steps)"
    return f"{config.task} with {config.backbone}: {got} over {played}{cut if result['cut'] else ''}"


def _summary(config: configs.Config, result: Mapping[str, Any]) -> str:
    """What a person wants to read when a run ends: its return, those recorded of others, what to do next."""
    from studies.records import picture, recorded

    folder = Path(result["logdir"])
    shown = shlex.quote(os.path.relpath(folder))
    try:
        drawn = f"its returns beside these: {picture(folder, config.task, config.backbone)}"
    except OSError as error:  # the run is done, and saved
        drawn = f"its returns could not be drawn: {error}"
    lines = [
        _evaluation(config, result),
        f"after {result['steps']:,} environment steps, {result['updates']:,} updates, "
        f"{result['seconds']:,.0f} s",
        *recorded(config.task, config.backbone),
        drawn,
        "what its world model foresees, and what it still knows of the past:",
        f"  python run.py imagine {shown}",
        f"  python run.py probe {shown} --out {shown}/probe.png",
        "all of it on one page, when these have drawn:",
        f"  python run.py report {shown} --out {shown}/report.html",
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Within, everything that this process and its children print goes to stderr."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # closed
        kept = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def leave() -> None:
    """Exit with the code of `main`, also where environments left threads that never end."""
    code: Any = 1
    try:
        code = main()
    except SystemExit as error:
        code = error.code
        raise
    finally:
        guard: Any = sys.modules.get("envs.guard")
        if guard:  # else there was no environment
            guard.end_within(guard.PATIENCE, code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


if __name__ == "__main__":
    leave()
