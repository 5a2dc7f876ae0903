"""The command line: what it refuses before anything is created, and what it hands to whom."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import configs
import run
from agent.evaluation import build_agent, spaces_of
from agent.stopping import Stopped
from studies import records

ROOT = Path(__file__).parents[1]
EVALUATION = {
    "return_mean": 0.5,
    "return_std": 0.25,
    "returns": [0.25, 0.75],
    "episodes": 2,
    "length_mean": 33.0,
    "cut": 0,
}
TRAINED = EVALUATION | {"steps": 1000, "updates": 20, "seconds": 3.5, "logdir": "somewhere"}
FAILED = {"recorded": "it failed", "message": "it fails", "update": 9, "batch": ["reward"]}
CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the rooms that do the work, and keeps what they were called with."""
    seen: dict[str, Any] = {}

    def keep(name: str, result: Any) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            seen[name] = named or positional
            return result

        return call

    online = SimpleNamespace(train=keep("train", TRAINED), Stopped=Stopped)
    crash = SimpleNamespace(reproduce=keep("reproduce", FAILED))
    evaluation = SimpleNamespace(
        evaluate=keep("eval", EVALUATION), build_agent=build_agent, spaces_of=spaces_of
    )
    monkeypatch.setitem(
        sys.modules, "agent", SimpleNamespace(online=online, crash=crash, evaluation=evaluation)
    )
    monkeypatch.setattr("studies.provenance.record", keep("record", None))
    monkeypatch.setitem(sys.modules, "studies.compare", SimpleNamespace(compare=keep("compare", {"a": 1})))
    plots = SimpleNamespace(
        plot=keep("plot", Path("curves.png")), draw_costs=keep("draw_costs", Path("c.png"))
    )
    monkeypatch.setitem(sys.modules, "studies.plots", plots)
    monkeypatch.setitem(
        sys.modules,
        "studies.bench",
        SimpleNamespace(bench=keep("bench", {"rows": []}), table=lambda result: f"table of {result}"),
    )
    return seen


def refuses(argv: Sequence[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """main(argv) ends with exit code 2, says every part on stderr and leaves nothing on disk."""
    before = sorted(Path().rglob("*"))
    try:
        code: object = run.main(argv)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    for part in parts:
        assert part in err
    assert sorted(Path().rglob("*")) == before


class TestHelp:
    def test_lists_every_option_with_default_and_meaning(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            run.main(["train", "--help"])
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for key, default, meaning in configs.describe():
            assert f"--{key} " in text
            assert f"{meaning} [{configs.typed(default)}]" in text
        for name in [*configs.presets(), *run.COMMANDS]:
            assert name in text

    def test_bare_help_is_the_one_of_train(self, capsys: pytest.CaptureFixture[str]) -> None:
        shown = []
        for argv in (["--help"], ["train", "-h"]):
            with pytest.raises(SystemExit):
                run.main(argv)
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]

    @pytest.mark.parametrize("command", ["eval", "compare", "plot", "bench"])
    def test_the_other_commands_have_one(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            run.main([command, "--help"])
        assert stop.value.code == 0
        assert f"run.py {command}" in capsys.readouterr().out

    def test_help_and_refusals_import_nothing_heavy(self) -> None:
        code = """
import sys, run
for argv in (["--help"], ["--no_such_option", "1"], ["--backbone", "none"], ["--seed", "x"]):
    try:
        run.main(argv)
    except SystemExit:
        print(sorted({"torch", "numpy", "gymnasium"} & set(sys.modules)), file=sys.stderr)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("[]\n") == 4, done.stderr


REFUSED = [
    (["trainr"], "unknown command 'trainr'. Did you mean 'train'? Expected one of train, eval"),
    (["--agent.horizn", "3"], "unknown option '--agent.horizn'"),
    (["--batch_lenght=3"], "unknown option '--batch_lenght'. Did you mean '--batch_length'?"),
    (["--capacity", "3"], "Did you mean '--replay.capacity'?"),
    (
        ["--horizon", "3"],
        "unknown option '--horizon'. Did you mean '--imagination.horizon'? All options: python run",
    ),
    (["--batch", "3"], "unknown option '--batch'"),
    (["train", "extra"], "unexpected word 'extra'"),
    (["--steps"], "argument --steps: expected one argument"),
    (["--steps", "many"], "option 'steps' expects int (such as ", "got 'many' (str)"),
    (["--backbone", "s4mw"], "unknown backbone 's4mw'. Did you mean 's4wm'?"),
    (["--configs", "debgg"], "unknown preset 'debgg'. Did you mean 'debug'?"),
    (["--task", "memory_chian"], "memory_chian", "memory_chain"),
    (["--task", "memory_chain:m=3"], "'m'"),
    (["--task", "memory_chain:n=-3"], "-3"),
    (["--task", "NoSuchTask-v0"], "NoSuchTask-v0"),
    (["--task", "no_such_module:Id-v0"], "no_such_module"),
    (["--seed", "-1"], "seed"),
    (["--device", "gpu"], "unknown device 'gpu'. Did you mean 'cpu'? Expected one of auto, cpu, cuda"),
    (["--logdir", "a_file"], "a_file is a file"),
    (["--replay.initial_state", "kept"], "initial_state must be one of zero, stored, burn_in, got 'kept'"),
    (["--replay.consecutive", "true"], "online and replay.consecutive exclude each other"),
    (["--replay.capacity", "100"], "Use a capacity of at least "),
    (["--replay.memory_gb", "1e-5"], "replay.memory_gb is 1e-05, but 0.000824 are needed"),
    (
        ["compare", "--backbones", "rssm", "--logdir", "none", "--replay.memory_gb", "1e-5"],
        "replay.memory_gb is 1e-05",
    ),
    (["--s4wm.layer", "s6"], "s4wm.layer must be one of s5, s4d, s4, lru, mamba2, got 's6'"),
    (["--s4wm.stoch", "0"], "'s4wm.stoch' expects 1 or more"),
    (["--backbone", "rssm", "--rssm.blocks", "7"], "rssm.deter 96 must be divisible by rssm.blocks 7"),
    (["--precision", "float8"], "precision must be one of"),
    (
        ["compare", "--backbones", "s4wm", "rssm", "--logdir", "none", "--rssm.blocks", "7"],
        "must be divisible by rssm.blocks 7",
    ),
    (["eval"], "arguments are required: --logdir"),
    (["eval", "--logdir", "none"], "no run in none: expected none/config.yaml"),
    (["reproduce", "--logdir", "none"], "no crash in none: expected none/crash"),
    (["eval", "--logdir", "none", "--episodes", "0"], "expected a positive whole number, got '0'"),
    (["eval", "--logdir", "none", "--episodes", "x"], "--episodes"),
    (["eval", "--episode", "3", "--logdir", "none"], "Did you mean '--episodes'?"),
    (
        ["compare", "--backbones", "s4wm", "rsm", "--logdir", "none"],
        "unknown backbone 'rsm'. Did you mean 'rssm'?",
    ),
    (["compare", "--backbones", "s4wm", "--logdir", "none", "--seed", "3"], "Did you mean '--seeds'?"),
    (["compare", "--backbones", "s4wm", "s4wm", "--logdir", "none"], "name each backbone once"),
    (["compare", "--backbones", "s4wm"], "arguments are required: --logdir"),
    (["collect", "--out", "none"], "arguments are required: --policy"),
    (["collect", "--policy", "random", "--out", "none"], "name the task to play: --task TASK"),
    (
        ["collect", "--task", "tmaze", "--policy", "scriptd", "--out", "none"],
        "unknown policy 'scriptd'. Did you mean 'scripted'? Expected scripted, random or the folder of a run",
    ),
    (["collect", "--task", "tmase", "--policy", "random", "--out", "none"], "'tmase'", "'tmaze'"),
    (
        ["collect", "--task", "tmaze", "--policy", "scripted", "--out", "none"],
        "'tmaze' has no scripted policy",
    ),
    (["collect", "--task", "tmaze", "--policy", "random", "--out", "a_file"], "a_file is a file"),
    (
        ["collect", "--task", "tmaze", "--policy", "random", "--out", "b", "--seed", "-1"],
        "of at least 0, got '-1'",
    ),
    (["collect", "--task", "tmaze", "--policy", ".", "--out", "b"], "no run in .: expected config.yaml"),
    (["plot", "none", "--out", "a.png"], "no none: expected"),
    (
        ["bench", "--what", "layer"],
        "unknown measure 'layer'. Did you mean 'layers'?",
        "Expected one of layers",
    ),
    (["bench", "--backbones", "s4wn"], "unknown backbone 's4wn'. Did you mean 's4wm'?"),
    (["bench", "--lengths", "0"], "expected a positive whole number, got '0'"),
    (["bench", "--batch_length", "3"], "unknown option '--batch_length'"),
    (["plot"], "arguments are required: LOGDIR, --out"),
]


class TestRefusals:
    @pytest.mark.faults("configuration mistake")
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case[0]))
    def test_exit_2_and_nothing_on_disk(
        self, case: tuple[Any, ...], calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("a_file").touch()
        argv, *parts = case
        refuses(argv, capsys, *parts)
        assert calls == {}

    @pytest.mark.faults("configuration mistake")
    def test_as_a_process(self) -> None:
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), "--backbone", "s4mw", "--logdir", "x"],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("run.py: unknown backbone 's4mw'. Did you mean 's4wm'?")
        assert "Traceback" not in done.stderr
        assert list(Path().iterdir()) == []

    def test_a_missing_extra(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def make(task: str, seed: int) -> None:
            raise ImportError("Tasks 'popgym:...' need popgym: pip install -e '.[popgym]'")

        monkeypatch.setattr("envs.make", make)
        refuses(["--task", "popgym:RepeatPreviousEasy"], capsys, "pip install -e '.[popgym]'")

    def test_cuda_where_there_is_none(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        refuses(["--device", "cuda"], capsys, "torch finds no CUDA GPU here")


class TestTrain:
    def test_hands_the_merged_configuration_and_builders_to_the_agent(
        self, calls: dict[str, Any], tmp_path: Path
    ) -> None:
        words = [
            "--backbone=rssm",
            "--task",
            "memory_chain:n=5",
            "--seed",
            "3",
            "--steps=2e3",
            "--logdir",
            "a/b",
        ]
        words += ["--configs", "cpu", "debug", *CPU, "--replay.capacity", "700", "--envs.mode", "sync"]
        assert run.main(words) == 0
        config, make_envs, make_replay, logdir = calls["train"]
        assert logdir == Path("a/b")
        assert (config.backbone, config.task, config.seed, config.steps) == (
            "rssm",
            "memory_chain:n=5",
            3,
            2000,
        )
        assert config == configs.load(
            "memory_chain:n=5",
            "rssm",
            ["cpu", "debug"],
            {
                "seed": 3,
                "steps": 2000,
                "logdir": "a/b",
                "device": "cpu",
                "replay.capacity": 700,
                "envs.mode": "sync",
            },
        )
        assert configs.read("a/b/config.yaml") == config
        folder, words = calls["record"]
        assert folder == Path("a/b") and words[:2] == ["python", "run.py"] and "--replay.capacity" in words
        envs = make_envs(2, 3, 10)
        assert envs.num_envs == 2
        envs.close()
        loader = make_replay(2, tmp_path, dict)
        assert len(loader.replay) == 0 and loader.replay.store.folder == tmp_path

    def test_defaults(self, calls: dict[str, Any]) -> None:
        assert run.main(["train", *CPU]) == 0
        config, _, _, logdir = calls["train"]
        assert config == configs.load(overrides={"device": "cpu"})
        assert logdir.parts[0] == "runs" and logdir.parts[2:] == ("s4wm", "seed0")

    def test_default_logdir_is_one_folder_a_task(self) -> None:
        def logdir(task: str) -> Path:
            return run._default_logdir(configs.load(task))

        assert logdir("memory_chain:n=3,seed=4") == Path("runs/memory_chain_n=3_seed=4/s4wm/seed0")
        assert logdir("../../etc:x") == Path("runs/etc_x/s4wm/seed0")

    def test_gpu_chooses_the_preset(self, calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        for number, (device, size) in enumerate([("auto", "12m"), ("cuda", "12m"), ("cpu", "cpu")]):
            assert run.main(["--device", device, "--logdir", str(number)]) == 0
            expected = configs.load(presets=[size], overrides={"device": device, "logdir": str(number)})
            assert calls["train"][0] == expected

    def test_threads(self, calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        set_to: list[int] = []
        monkeypatch.setattr("torch.set_num_threads", set_to.append)
        run.main([*CPU, "--threads", "0", "--logdir", "a"])
        assert set_to == []
        run.main([*CPU, "--threads", "3", "--logdir", "b"])
        assert set_to == [3]

    def test_another_size_is_told(self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        """Without --configs it depends on the machine."""
        run.main([*CPU, "--logdir", "a"])
        Path("a/checkpoints/10").mkdir(parents=True)
        capsys.readouterr()
        refuses([*CPU, "--logdir", "a", "--configs", "12m"], capsys, "options", "size (--configs) included")

    def test_an_error_inside_an_environment_is_shown_whole(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("broken_maze.py").write_text(
            "import gymnasium\n"
            "class Maze(gymnasium.Env):\n"
            "    def __init__(self):\n"
            "        self.size = int('nine')\n"
            "gymnasium.register('Broken-v0', Maze)\n"
        )
        monkeypatch.syspath_prepend(str(Path.cwd()))
        refuses(
            [*CPU, "--task", "broken_maze:Broken-v0"],
            capsys,
            "broken_maze.py",
            "self.size = int('nine')",
            "the environment of task 'broken_maze:Broken-v0' cannot be made: invalid literal",
        )
        with pytest.raises(SystemExit):
            run.main([*CPU, "--task", "memory_chain:n=-3"])
        assert "Traceback" not in capsys.readouterr().err

    @pytest.mark.faults("resumed with another configuration or format")
    def test_goes_on_with_the_same_run_only(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run.main([*CPU, "--logdir", "a", "--steps", "10"]) == 0
        assert run.main([*CPU, "--logdir", "./a", "--steps", "20"]) == 0
        assert configs.read("a/config.yaml").steps == 20
        assert run.main([*CPU, "--logdir", "a", "--batch_size", "3"]) == 0, "nothing was saved yet"
        assert run.main([*CPU, "--logdir", "a"]) == 0
        Path("a/checkpoints/10").mkdir(parents=True)
        capsys.readouterr()
        words = [*CPU, "--logdir", "a", "--seed", "5", "--batch_size", "3"]
        refuses(
            words,
            capsys,
            "a holds a run that was configured otherwise",
            "seed: saved 0, now 5",
            "batch_size: saved",
        )
        Path("a/config.yaml").write_text("seed: 3\n")
        refuses([*CPU, "--logdir", "a"], capsys, "a/config.yaml lacks 'task', 'backbone'")

    def test_json_is_the_last_line(self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        run.main([*CPU, "--json"])
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == TRAINED

    def test_summary_has_the_recorded_return_of_the_other_backbone(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(records, "RESULTS", Path("results"))
        Path("results").mkdir()
        got = {"return_mean": 0.125, "interval": [0.1, 0.2], "seeds": 5, "steps": 100_000}
        record = {
            "command": "python run.py compare",
            "commit": "0123456789" * 4,
            "task": "memory_chain:n=5",
            "results": {
                "s4wm": got,
                "rssm": got | {"seeds": [0, 1, 2]},
                "gru": got | {"seeds": 1, "commits": ["a" * 40, "b" * 40 + "-dirty"]},
                "lru": got,
            },
        }
        Path("results/a.json").write_text(json.dumps(record))
        Path("results/b.json").write_text(json.dumps(record | {"task": "other"}))
        again = {"a/lru/seed0": {"return_mean": 0.25}, "a/lru/seed1": {"return_mean": 0.75}}
        Path("results/evaluations.json").write_text(json.dumps(again | {"aa/lru/seed2": {"return_mean": 9}}))
        run.main([*CPU, "--task", "memory_chain:n=5"])
        assert capsys.readouterr().out.splitlines() == [
            "memory_chain:n=5 with s4wm: mean return 0.5 (standard deviation 0.25) over 2 episodes "
            "of 33 steps",
            "after 1,000 environment steps, 20 updates, 4 s",
            "recorded with rssm: mean return 0.125 [0.1, 0.2] over 3 seeds of 100,000 steps "
            "(docs/results/a.json)",
            "  by: python run.py compare, at commit 0123456",
            "recorded with gru: mean return 0.125 of one seed of 100,000 steps (docs/results/a.json)",
            "  by: python run.py compare, at commit aaaaaaa, bbbbbbb-dirty",
            "recorded with lru: mean return 0.5 over 2 seeds, evaluated as today, of 100,000 steps "
            "(docs/results/a.json)",
            "  by: python run.py compare, at commit 0123456",
            "run folder: somewhere",
        ]

    def test_interrupted(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules["agent"].online, "train", interrupted)
        assert run.main([*CPU]) == 130
        assert capsys.readouterr().err == "run.py: interrupted.\n"

    def test_an_error_of_the_training_keeps_its_traceback(
        self, calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> None:
            raise ValueError("shapes")

        monkeypatch.setattr(sys.modules["agent"].online, "train", fails)
        with pytest.raises(ValueError, match="shapes"):
            run.main([*CPU])


class TestEval:
    def test_evaluates_with_the_saved_configuration(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        run.main([*CPU, "--logdir", "a", "--seed", "4", "--task", "memory_chain:n=5"])
        capsys.readouterr()
        refuses(
            ["eval", "--logdir", "a"], capsys, "the run in a has no checkpoint yet: nothing in a/checkpoints."
        )
        Path("a/checkpoints/100").mkdir(parents=True)
        assert run.main(["eval", "--logdir", "a", "--episodes", "6", "--json"]) == 0
        config, make_envs, logdir, episodes, seed = calls["eval"]
        assert config == configs.read("a/config.yaml")
        assert (logdir, episodes, seed) == (Path("a"), 6, 4)
        envs = make_envs(3, 0, 0)
        assert envs.num_envs == 3
        envs.close()
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == EVALUATION
        run.main(["eval", "--logdir", "a", "--seed", "9"])
        assert calls["eval"][3:] == (10, 9)
        assert calls["eval"][0].eval.deterministic
        run.main(["eval", "--logdir", "a", "--sampled"])
        assert not calls["eval"][0].eval.deterministic
        assert "memory_chain:n=5 with s4wm: mean return 0.5" in capsys.readouterr().out

    def test_on_another_device(self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        run.main([*CPU, "--logdir", "a"])
        Path("a/checkpoints/100").mkdir(parents=True)
        Path("a/config.yaml").write_text(
            Path("a/config.yaml").read_text().replace("device: cpu", "device: cuda")
        )
        assert run.main(["eval", "--logdir", "a", "--device", "cpu"]) == 0
        assert calls["eval"][0].device == "cpu"
        capsys.readouterr()
        refuses(["eval", "--logdir", "a", "--device", "gpu"], capsys, "unknown device 'gpu'")


def test_reproduce(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*CPU, "--logdir", "a", "--seed", "3"]) == 0
    Path("a/crash").mkdir()
    capsys.readouterr()
    assert run.main(["reproduce", "--logdir", "a", "--device", "auto"]) == 0
    agent, logdir = calls["reproduce"]
    assert (agent.seed, logdir) == (3, Path("a"))
    assert capsys.readouterr().out.splitlines() == [
        "then: it failed",
        "now:  it fails",
        "not finite in the batch of update 9: reward",
    ]
    assert run.main(["reproduce", "--logdir", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FAILED


class TestCompareAndPlot:
    def test_compare(self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        words = ["compare", "--task", "memory_chain:n=5", "--backbones", "s4wm", "rssm", "--seeds", "2"]
        words += ["--steps", "1e3", "--logdir", "a", "--jobs", "2", "--configs", "debug", "--json", *CPU]
        assert run.main([*words, "--recall.scale", "0"]) == 0
        task, backbones, seeds, steps, logdir, jobs, presets, overrides, threads = calls["compare"]
        assert threads == configs.load(presets=["debug"]).threads
        assert (task, backbones, seeds, steps) == ("memory_chain:n=5", ["s4wm", "rssm"], 2, 1000)
        assert (logdir, jobs, presets) == (Path("a"), 2, ["debug"])
        assert overrides == {"device": "cpu", "recall.scale": "0"}
        assert json.loads(capsys.readouterr().out) == {"a": 1}
        assert not Path("a").exists()

    def test_compare_takes_task_and_steps_from_the_configuration(self, calls: dict[str, Any]) -> None:
        run.main(["compare", "--backbones", "rssm", "--logdir", "a", *CPU])
        expected = configs.load(backbone="rssm")
        assert (calls["compare"][0], calls["compare"][3]) == (expected.task, expected.steps)

    def test_compare_refuses_runs_of_other_options(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Finished ones too: an earlier version's defaults may have been others."""
        saved = Path("a/rssm/seed1/config.yaml")
        saved.parent.mkdir(parents=True)
        words = ["compare", "--backbones", "rssm", "--logdir", "a", *CPU]
        configs.save(configs.load(backbone="rssm", overrides={"seed": 1, "steps": 7}), saved)
        run.main(words)
        assert calls.pop("compare")[1] == ["rssm"]
        configs.save(configs.load(backbone="rssm", overrides={"kl.free_nats": 0.5}), saved)
        run.main(words)  # nothing came of that run
        calls.pop("compare")
        (saved.parent / "result.json").write_text("{}")
        with pytest.raises(SystemExit) as exit_code:
            run.main(words)
        assert exit_code.value.code == 2 and "compare" not in calls
        assert "kl.free_nats: saved 0.5, now 1.0" in capsys.readouterr().err

    def test_collect(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["collect", "--task", "tmaze", "--policy", "random", "--episodes", "2", "--out", "a"]
        assert run.main([*words, "--jobs", "1", "--json"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (result["episodes"], result["played"], result["out"]) == (2, 2, "a")
        assert run.main(words) == 0
        assert capsys.readouterr().out.startswith("a: 2 episodes of tmaze, mean return ")
        names = sorted(path.name for path in Path("a").iterdir())
        assert names == ["dataset.json", "episode-00000000.npz", "episode-00000001.npz"]
        refuses([*words, "--seed", "1"], capsys, "a holds other episodes (seed: 0 there, 1 now)")

    def test_plot(self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        Path("a").mkdir()
        assert run.main(["plot", "a", "--out", "curves.png"]) == 0
        assert calls["plot"] == ([Path("a")], Path("curves.png"))
        assert capsys.readouterr().out == "curves.png\n"

    def test_nothing_to_draw(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def draw(logdirs: Sequence[Path], out: Path) -> Path:
            raise ValueError("no run in a")

        monkeypatch.setattr(sys.modules["studies.plots"], "plot", draw)
        Path("a").mkdir()
        refuses(["plot", "a", "--out", "curves.png"], capsys, "run.py: no run in a")


class TestBench:
    def test_hands_resolved_configurations_to_the_study(
        self, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["bench", "--what", "update", "--backbones", "s4wm_s4d", "rssm", "--lengths", "8", "1e2"]
        assert run.main([*words, *CPU, "--configs", "debug", "--repeats", "3", "--json"]) == 0
        what, resolved, lengths, repeats, device = calls["bench"]
        assert (what, lengths, repeats, device) == ("update", [8, 100], 3, "cpu")
        options = {"device": "cpu"}
        assert resolved == {
            name: configs.load(backbone=name, presets=["debug"], overrides=options)
            for name in ("s4wm_s4d", "rssm")
        }
        *_, table, last = capsys.readouterr().out.splitlines()
        assert table.startswith("table of") and json.loads(last) == {"rows": []}

    def test_defaults(self, calls: dict[str, Any]) -> None:
        run.main(["bench", *CPU])
        what, resolved, lengths, repeats, _ = calls["bench"]
        assert (what, list(resolved), lengths, repeats) == ("world_model", configs.backbones(), [64], 10)
        assert "draw_costs" not in calls
        run.main(["bench", "--picture", "c.png", *CPU])
        assert calls["draw_costs"] == ({"rows": []}, Path("c.png"))
        run.main(["bench", "--what", "layers", *CPU])
        names = ["s4wm", "s5wm", "s4wm_s4", "s4wm_s4d", "lruwm", "mamba2wm"]
        assert list(calls["bench"][1]) == names
