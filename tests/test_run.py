"""The command line: what it refuses before anything is created, and what its commands do on small runs."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import configs
import run
from studies import records

ROOT = Path(__file__).parents[1]
SMALL = ["--configs", "debug", "--device", "cpu", "--task", "memory_chain:n=3"]
SMALL += ["--steps", "120", "--eval.every", "0", "--log.pictures", "0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 120 steps."""
    folder = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stdout(None):
        assert run.main([*SMALL, "--logdir", str(folder), "--seed", "4"]) == 0
    return folder


@pytest.fixture
def copied(trained: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(trained, "copied"))


def said(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert run.main(argv) == 0
    return capsys.readouterr().out.splitlines()


def refuses(argv: Sequence[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """main(argv) ends with exit code 2, says every part on stderr and leaves nothing on disk."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
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
    def test_lists_every_option_with_default_and_meaning(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "1000")  # lines break at hyphens, too
        with pytest.raises(SystemExit) as stop:
            run.main(["train", "--help"])
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for option in configs.describe():
            assert f"--{option.key} " in text
            assert option.meaning in text and f"[{configs.typed(option.default)}]" in text
        for name in [*configs.presets(), *run.COMMANDS]:
            assert name in text
        assert "usage: python run.py train [-h] [--json] " in text and "[--key.path VALUE ...]" in text

    @pytest.mark.parametrize("command", run.COMMANDS)
    def test_every_command_has_one(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            run.main([command, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: python run.py {command} ")
        description = text.split("\n\n")[1]
        assert len(description) > 20 and description.rstrip().endswith(".")

    def test_bare_help_is_the_one_of_train(self, capsys: pytest.CaptureFixture[str]) -> None:
        shown = []
        for argv in (["--help"], ["train", "-h"]):
            with pytest.raises(SystemExit):
                run.main(argv)
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]

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
    (["--log.tensorboard", "false"], "unknown option '--log.tensorboard'. It is 'log.to' now."),
    (["--log.to", "csv,wandbb"], "option 'log.to' expects none, or some of tensorboard, csv", "Did you mean"),
    (
        ["--horizon", "3"],
        "unknown option '--horizon'. Did you mean '--imagination.horizon'? All options: python run",
    ),
    (["--batch", "3"], "unknown option '--batch'"),
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
    (["--device", "gpu"], "option 'device' expects one of auto, cpu, cuda, got 'gpu'"),
    (["--logdir", "a_file"], "a_file is a file"),
    (
        ["--replay.initial_state", "kept"],
        "'replay.initial_state' expects one of zero, stored, burn_in, got 'kept'",
    ),
    (["--replay.consecutive", "true"], "online and replay.consecutive exclude each other"),
    (["--replay.capacity", "100"], "Use a capacity of at least "),
    (["--replay.memory_gb", "1e-5"], "replay.memory_gb is 1e-05, but 0.000946 are needed"),
    (
        ["compare", "--backbones", "rssm", "--logdir", "none", "--replay.memory_gb", "1e-5"],
        "replay.memory_gb is 1e-05",
    ),
    (["--s4wm.layer", "s6"], "'s4wm.layer' expects one of s5, s4d, s4, lru, mamba2, selective_lru, got 's6'"),
    (["--s4wm.layer", "s4"], "for s4 use --backbone s4wm_s4"),
    (["--kind", "rssm"], "unknown option '--kind'"),
    (["--optimiser.model_lr", "inf"], "'optimiser.model_lr' expects a finite number"),
    (["--threads", "1e9"], "'threads' expects a number in [0, 1024]"),
    (["--s4wm.stoch", "0"], "'s4wm.stoch' expects 1 or more"),
    (["--backbone", "rssm", "--rssm.blocks", "7"], "rssm.deter 96 must be divisible by rssm.blocks 7"),
    (["--precision", "float8"], "'precision' expects one of float32, bfloat16"),
    (
        ["compare", "--backbones", "s4wm", "rssm", "--logdir", "none", "--rssm.blocks", "7"],
        "must be divisible by rssm.blocks 7",
    ),
    (["eval"], "name one folder, as a word or after --logdir; got 0"),
    (["eval", "a", "--logdir", "b"], "name one folder, as a word or after --logdir; got 2"),
    (["eval", "none"], "/none: expected /", "/none/config.yaml. Train one first"),
    (["eval", "--logdir", "none"], "/none: expected /", "/none/config.yaml. Train one first"),
    (["reproduce", "--logdir", "none"], "no crash in none: expected none/crash"),
    (["eval", "--logdir", "none", "--episodes", "0"], "expected a positive whole number, got '0'"),
    (["eval", "--logdir", "none", "--episodes", "x"], "--episodes"),
    (["eval", "none", "--video", "a.avi"], "/a.avi must end in one of .gif, .mp4"),
    (["eval", "none", "--video", "a_file/a.gif"], "a_file is a file; choose another"),
    (["imagine", "none", "--video", "a.png"], "/a.png must end in one of .gif, .mp4"),
    (["eval", "--episode", "3", "--logdir", "none"], "Did you mean '--episodes'?"),
    (
        ["compare", "--backbones", "s4wm", "rsm", "--logdir", "none"],
        "unknown backbone 'rsm'. Did you mean 'rssm'?",
    ),
    (["compare", "--backbones", "s4wm", "--logdir", "none", "--seed", "3"], "Did you mean '--seeds'?"),
    (["compare", "--backbones", "s4wm", "s4wm", "--logdir", "none"], "name each backbone once"),
    (["compare", "--backbones", "s4wm"], "name one folder"),
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
    (
        ["collect", "--task", "tmaze", "--policy", "random", "--out", "a_file"],
        "a_file is there and no folder",
    ),
    (
        ["collect", "--task", "tmaze", "--policy", "random", "--out", "b", "--seed", "-1"],
        "of at least 0, got '-1'",
    ),
    (
        ["collect", "--task", "tmaze", "--policy", ".", "--out", "b"],
        "no run in /",
        "/config.yaml. Train one first",
    ),
    (["plot", "none", "--out", "a.png"], "no none: expected"),
    (["bench", "--what", "layer"], "layers"),
    (["bench", "--backbones", "s4wn"], "unknown backbone 's4wn'. Did you mean 's4wm'?"),
    (["bench", "--lengths", "0"], "expected a positive whole number, got '0'"),
    (["bench", "--batch_length", "3"], "unknown option '--batch_length'"),
    (["plot"], "arguments are required: RUN, --out"),
]


class TestRefusals:
    @pytest.mark.faults("configuration mistake")
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case[0]))
    def test_exit_2_and_nothing_on_disk(
        self, case: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("a_file").touch()
        argv, *parts = case
        refuses(argv, capsys, *parts)

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

    def test_an_error_inside_an_environment_is_shown_whole(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("broken_maze.py").write_text(
            "import gymnasium\n"
            "class Maze(gymnasium.Env):\n"
            "    def __init__(self):\n"
            "        self.size = int('nine')\n"
            "gymnasium.register('Broken-v0', Maze)\n"
        )
        monkeypatch.syspath_prepend(str(Path.cwd()))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        refuses(
            ["--task", "broken_maze:Broken-v0"],
            capsys,
            "broken_maze.py",
            "self.size = int('nine')",
            "the environment of task 'broken_maze:Broken-v0' cannot be made: invalid literal",
        )
        with pytest.raises(SystemExit):
            run.main(["--task", "memory_chain:n=-3"])
        assert "Traceback" not in capsys.readouterr().err

    @pytest.mark.faults("resumed with another configuration or format")
    def test_another_run_in_the_folder(self, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = [*SMALL, str(copied), "--seed", "5", "--batch_size", "3"]
        refuses(words, capsys, "configured otherwise", "seed: saved 4, now 5", "batch_size: saved")


class TestTrain:
    def test_what_is_merged_is_saved_and_used(self, trained: Path) -> None:
        options = {"steps": 120, "eval.every": 0, "log.pictures": 0, "seed": 4, "device": "cpu"}
        expected = configs.load("memory_chain:n=3", "s4wm", ["debug"], options | {"logdir": str(trained)})
        assert configs.read(trained / "config.yaml") == expected
        session = json.loads((trained / "sessions.jsonl").read_text())
        assert session["command"].startswith("python run.py --configs debug")
        assert json.loads((trained / "result.json").read_text())["steps"] >= 120

    def test_a_new_run_is_said_to_be_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A folder's name that was misspelt is seen at once."""
        assert run.main(["train", str(tmp_path / "mien"), *SMALL]) == 0
        new = f"a new run begins in {tmp_path / 'mien'}: memory_chain:n=3 with s4wm on cpu"
        assert new in capsys.readouterr().err

    def test_a_folder_alone_is_of_a_run_that_is_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refuses(["train", str(tmp_path / "mien")], capsys, "no run in", "--task", f"--logdir {tmp_path}")
        assert not (tmp_path / "mien").exists()

    def test_the_same_command_goes_on(self, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
        again = said(["train", str(copied), *SMALL, "--seed", "4", "--json"], capsys)
        assert json.loads(again[-1])["steps"] < 130, "it was done"
        words = [*SMALL[:-6], "--eval.every", "0", "--log.pictures", "0", "--seed", "4"]
        longer = said([*words, "--logdir", str(copied), "--steps", "150", "--json"], capsys)
        assert json.loads(longer[-1])["steps"] >= 150
        assert configs.read(copied / "config.yaml").steps == 150

    def test_what_is_not_named_is_as_it_was(self, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Options that do not touch what is learned may change, which is said and recorded."""
        words = ["train", str(copied), "--steps", "130", "--log.every", "50", "--steps", "150"]
        capsys.readouterr()
        assert run.main([*words, "--envs.timeout", "9"]) == 0
        err = capsys.readouterr().err
        for line in (
            "run.py: option '--steps' is given twice; the last one counts, 150",
            "run.py: option 'envs.timeout' does nothing here: envs.mode is sync",
            "log.every: saved 1000, now 50",
            f"the run in {copied.absolute()}: memory_chain:n=3 with s4wm on cpu",
        ):
            assert line in err
        assert configs.read(copied / "config.yaml").seed == 4
        session = json.loads((copied / "sessions.jsonl").read_text().splitlines()[-1])
        assert "log.every: saved 1000, now 50" in session["changed"]

    def test_gpu_chooses_the_preset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from agent.run.seams import configure

        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        for device, size in (("auto", "12m"), ("cuda", "12m"), ("cpu", "small")):
            expected = configs.load(presets=[size], overrides={"device": device})
            assert configure(None, None, [], {"device": device}) == expected

    def test_summary_has_the_recorded_return_of_the_other_backbone(
        self, copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(records, "RESULTS", Path("results"))
        Path("results").mkdir()
        got = {"return_mean": 0.125, "interval": [0.1, 0.2], "seeds": 5, "steps": 100_000}
        record = {
            "command": "python run.py compare",
            "commit": "0123456789" * 4,
            "task": "memory_chain:n=3",
            "optimum": 1.0,
            "runs": {"rssm": [{"steps": [10, 20], "seconds": [1, None], "values": [0.1, 0.2]}]},
            "results": {
                "s4wm": got,
                "rssm": got | {"seeds": 3},
                "gru": got | {"seeds": 1, "commits": ["a" * 40, "b" * 40 + "-dirty"]},
            },
        }
        Path("results/a.json").write_text(json.dumps(record))
        Path("results/b.json").write_text(json.dumps(record | {"task": "other"}))
        first, second, *rest = said([*SMALL, str(copied), "--seed", "4"], capsys)
        assert first.startswith("memory_chain:n=3 with s4wm: mean return ")
        assert second.startswith("after 1") and "environment steps" in second
        assert rest == [
            "recorded with rssm: mean return 0.125 [0.1, 0.2] over 3 seeds of 100,000 steps "
            "(docs/results/a.json)",
            "  by: python run.py compare, at commit 0123456",
            "recorded with gru: mean return 0.125 of one seed of 100,000 steps (docs/results/a.json)",
            "  by: python run.py compare, at commit aaaaaaa, bbbbbbb-dirty",
            f"its returns beside these: {copied.absolute()}/returns.png",
            "what its world model foresees, and what it still knows of the past:",
            f"  python run.py imagine {copied}",
            f"  python run.py probe {copied} --out {copied}/probe.png",
            "all of it on one page, when these have drawn:",
            f"  python run.py report {copied} --out {copied}/report.html",
        ]
        assert (copied / "returns.png").stat().st_size > 10_000

    def test_how_it_may_end(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Interrupted; by an error, which keeps its traceback; by a mistake that shows late."""

        class Command:
            """A command."""

            error: BaseException

            @staticmethod
            def arguments(parser: object) -> None:
                assert parser is not None

            @classmethod
            def prepare(cls, args: object) -> Any:
                def work() -> Any:
                    raise cls.error

                return work

        monkeypatch.setitem(run.COMMANDS, "train", Command)
        Command.error = KeyboardInterrupt()
        assert run.main([]) == 130
        assert capsys.readouterr().err == "run.py: interrupted.\n"
        Command.error = ValueError("shapes")
        with pytest.raises(ValueError, match="shapes"):
            run.main([])
        Command.error = configs.Mistake("nothing to draw")
        refuses([], capsys, "run.py: nothing to draw")


class TestEval:
    def test_with_the_saved_configuration(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (line,) = said(["eval", str(trained), "--episodes", "6"], capsys)
        assert line.startswith("memory_chain:n=3 with s4wm: mean return ") and "over 6 episodes of 4" in line
        words = ["eval", "--logdir", str(trained), "--json", "--episodes", "40"]
        results = [
            json.loads(said([*words, *more], capsys)[-1])
            for more in (["--sampled"], ["--sampled", "--seed", "4"], ["--sampled", "--seed", "9"], [])
        ]
        assert results[0] == results[1] and results[0]["episodes"] == 40
        assert results[0]["step"] == json.loads((trained / "result.json").read_text())["steps"]
        assert all(result["returns"] != results[0]["returns"] for result in results[2:])

    @pytest.mark.parametrize("task", ["memory_chain:n=3", "memory_chain:n=3,observation=pixels"])
    def test_a_video_changes_no_return(
        self, task: str, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = trained
        if "pixels" in task:
            folder = Path("pixels")
            assert run.main([*SMALL, "--task", task, "--logdir", str(folder)]) == 0
        words = ["eval", str(folder), "--json", "--episodes", "5"]
        without, filmed = (
            json.loads(said([*words, *more], capsys)[-1]) for more in ([], ["--video", "five.gif"])
        )
        assert filmed == without | {"video": "five.gif"}
        assert said([*words[:2], "--video", "again.gif"], capsys)[-1] == "video: again.gif"
        assert Image.open("five.gif").n_frames >= 1 + 4 + 10  # the last one stays for a second

    @pytest.mark.faults("configuration mistake")
    def test_nothing_to_be_seen(
        self, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("envs.VectorDoor.render", lambda self: None)
        says = "no video of memory_chain:n=3: its environment has no render mode", "(vector [3])"
        refuses(["eval", str(trained), "--video", "a.gif"], capsys, *says)

    def test_on_another_device(self, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = copied / "config.yaml"
        path.write_text(path.read_text().replace("device: cpu", "device: cuda"))
        assert said(["eval", str(copied), "--device", "cpu", "--episodes", "1"], capsys)
        refuses(["eval", str(copied), "--device", "gpu"], capsys, "'device' expects one of auto, cpu, cuda")


@pytest.fixture
def fails_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every reward that replay hands out is not a number."""
    from replay import Replay

    take = Replay.next

    def spoilt(self: Replay) -> dict[str, Any]:
        batch = take(self)
        batch["reward"][:] = float("nan")
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "next", spoilt)
        yield


@pytest.mark.faults("parameters, loss or gradient not finite")
def test_reproduce(fails_at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FloatingPointError):
        run.main([*SMALL, "--logdir", "a", "--seed", "3"])
    then, now, spoilt = said(["reproduce", "a", "--device", "auto"], capsys)
    assert then.startswith("then: train/reward is not finite") and now.startswith("now:  train/reward is")
    assert spoilt.startswith("not finite in the batch of update ") and spoilt.endswith(": reward")
    result = json.loads(said(["reproduce", "--logdir", "a", "--json"], capsys)[-1])
    assert result["batch"] == ["reward"] and result["recorded"] in then


def test_collect(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "--task", "tmaze", "--policy", "random", "--episodes", "2", "--out", "a"]
    result = json.loads(said([*words, "--jobs", "1", "--json"], capsys)[-1])
    assert (result["episodes"], result["played"], result["out"]) == (2, 2, "a")
    assert said(words, capsys)[-1].startswith("a: 2 episodes of tmaze, mean return ")
    names = sorted(path.name for path in Path("a").iterdir())
    assert names == ["dataset.json", "episode-00000000.npz", "episode-00000001.npz"]
    refuses([*words, "--seed", "1"], capsys, "a holds other episodes (seed: 0 there, 1 now)")


def test_plot(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["plot", str(trained), "--out", "curves.png"], capsys) == ["curves.png"]
    assert Path("curves.png").stat().st_size > 10_000
    Path("empty").mkdir()
    refuses(["plot", "empty", "--out", "b.png"], capsys, "run.py: no run in empty")


def test_compare_refuses_runs_of_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Finished ones too: an earlier version's defaults may have been others."""
    folder = Path("a/rssm/seed1")
    folder.mkdir(parents=True)
    config = configs.load(backbone="rssm", overrides={"kl.free_nats": 0.5, "device": "cpu"})
    (folder / "config.yaml").write_text(configs.dump(config))
    (folder / "result.json").write_text("{}")
    words = ["compare", "--backbones", "rssm", "--logdir", "a", "--device", "cpu"]
    refuses(words, capsys, "kl.free_nats: saved 0.5, now 1.0")


def test_results_have_stdout_for_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    with run.stdout_for_results():
        print("said", end="")
        os.write(1, b"written")
    print("result")
    out, err = capfd.readouterr()
    assert out == "result\n" and "written" in err
