"""compare as a command: small runs, and what is refused before anything is created."""

import subprocess
import sys
from pathlib import Path

import pytest

import configs
import run
from studies import compare
from tests.studies.conftest import Refused

WORDS = ("--task", "memory_chain:n=3", "--configs", "debug", "--device", "cpu", "--eval.episodes", "2")


def test_a_small_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again starts nothing, by either name of the folder."""
    words = ["--backbones", "s4wm", "--seeds", "1", "--steps", "80", "--grid", "s4wm.layers=2", *WORDS]
    assert run.main(["compare", str(tmp_path / "a"), *words]) == 0
    *_, row, written = capsys.readouterr().out.splitlines()
    assert row.startswith("s4wm (s5) [s4wm.layers=2] ")
    assert written.startswith(f"written: {tmp_path / 'a' / 'compare.json'}")
    config = configs.read(tmp_path / "a" / "s4wm,s4wm.layers=2" / "seed0" / "config.yaml")
    assert (config.task, config.steps, config.batch_size, config.s4wm.layers) == (
        "memory_chain:n=3",
        80,
        4,
        2,
    )
    assert run.main(["compare", "--logdir", str(tmp_path / "a"), *words]) == 0
    assert "already finished: s4wm [s4wm.layers=2] seed 0 (1 of 1 runs done)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backbones", "s4wm", "rsm"], "unknown backbone 'rsm'. Did you mean 'rssm'?"),
        (["--backbones", "s4wm", "s4wm"], "name each backbone once"),
        (["--backbones", "s4wm", "rssm", "--rssm.blocks", "7"], "must be divisible by rssm.blocks 7"),
        (["--backbones", "rssm", "--replay.memory_gb", "1e-5"], "replay.memory_gb is 1e-05"),
        (["--backbones", "rssm", "--replay.capacity", "20"], "Use a capacity of at least"),
        (["--backbones", "rssm", "--replay.consecutive", "true"], "exclude each other"),
        (["--backbones", "rssm", "--seed", "3"], "Did you mean '--seeds'?"),
        (["--backbones", "s4wm", "--grid", "s4wm.layrs=1,2"], "unknown option 's4wm.layrs'. Did you mean"),
        (["--backbones", "s4wm", "--grid", "s4wm.layers=1,0"], "option 's4wm.layers' expects 1 or more"),
        (
            ["--backbones", "s4wm", "rssm", "--grid", "s4wm.layers=1,2"],
            "the backbone is 'rssm'. Compare 'rssm'",
        ),
        (["--backbones", "s4wm", "--grid", "s4wm.layers=1,1.0"], "[s4wm.layers=1.0]' are the same row"),
        (["--backbones", "s4wm", "--grid", "s4wm.layers"], "--grid expects KEY=VALUE,VALUE, such as"),
        (["--backbones", "s4wm", "--grid", "seed=1,2"], "--grid cannot have 'seed', which a comparison"),
        (["--backbones", "s4wm", *["--grid", "s4wm.layers=1,2"] * 2], "'s4wm.layers' is given twice"),
        (["--backbones", "s4wm", "--eval.every=9", "--grid", "eval.every=1"], "'eval.every' is given twice"),
        (["--backbones", "rssm", "--grid", f"actor_critic.entropy=0.{'0' * 250}1"], "more than 255 bytes"),
        (["--backbones", "rssm", "--seeds", "0"], "expected a positive whole number, got '0'"),
    ],
)
def test_nothing_is_created_for_what_cannot_be(
    words: list[str], said: str, tmp_path: Path, refused: Refused
) -> None:
    assert said in refused("compare", tmp_path / "a", *words, *WORDS)
    assert not list(tmp_path.iterdir())


def test_runs_of_other_options(tmp_path: Path, refused: Refused) -> None:
    """Finished ones too: an earlier version's defaults may have been others."""
    folder = tmp_path / "rssm" / "seed1"
    folder.mkdir(parents=True)
    saved = configs.load("memory_chain:n=3", "rssm", ["debug"], {"kl.free_nats": 0.5, "seed": 1})
    (folder / "config.yaml").write_text(configs.dump(saved))
    (folder / "result.json").write_text("{}")
    said = refused("compare", tmp_path, "--backbones", "rssm", *WORDS)
    assert "kl.free_nats: saved 0.5, now 1.0" in said and "seed:" not in said


def test_what_does_nothing_for_any_row_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rssm.units", "8", "--s4wm.unimix", "0", "--explore.scale", "2", *WORDS]
    compare.prepare(compare.parsed([str(tmp_path), "--backbones", "rssm", "rssm_tbtt", *words]))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "run.py: option 's4wm.unimix' does nothing here: the backbone is 'rssm'",
        "run.py: option 'explore.scale' does nothing here: explore.networks is 0",
    ]


def test_another_comparison(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "rssm" / "seed0" / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "plan.json").write_text('{"task": "tmaze", "presets": [], "overrides": {}}')
    assert "holds the comparison {'task': 'tmaze'" in refused(
        "compare", tmp_path, "--backbones", "rssm", *WORDS
    )


@pytest.mark.parametrize("command", ["compare", "collect", "plot", "gallery"])
def test_help_needs_no_torch(command: str) -> None:
    code = "import sys, run\ntry: run.main(sys.argv[1:])\nexcept SystemExit: print('torch' in sys.modules)"
    words, root = [sys.executable, "-c", code, command, "--help"], Path(run.__file__).parent
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
