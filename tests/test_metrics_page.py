"""docs/metrics.md names all that runs log, and nothing that none of them logs."""

import contextlib
import re
import warnings
from pathlib import Path

import pytest

import configs
import run
from tests.agent.run.house import metrics_of
from tests.agent.run.test_logger import events

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
KINDS = ("Scalars", "Pictures", "Histograms")
OPTIONS = [
    *(
        "--configs",
        "debug",
        "--device",
        "cpu",
        "--steps",
        "150",
        "--log.every",
        "50",
        "--log.pictures",
        "100",
    ),
    *("--eval.every", "100", "--eval.episodes", "2", "--eval.max_steps", "20"),
]
MODELS = {name.partition("_")[0] for name in configs.backbones()}
FITTED = "fitted to episodes on disk"
RUNS = {
    **{model: ["--task", "memory_chain:n=3", "--backbone", model] for model in MODELS},
    "continuous actions": ["--task", "Pendulum-v1", "--backbone", "rssm", "--explore.networks", "2"],
    FITTED: ["--updates", "20", "--log.every", "10", "--log.pictures", "20", "--eval.episodes", "9"],
    # A picture, a code and a vector; a worker process fails once.
    "async": ["--task", "tests.faults.faulty:Faulty-v0:fault=step,once={once}", "--envs.mode", "async"],
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Kind -> every name that the runs write."""
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for title, words in RUNS.items():
        folder = tmp_path_factory.mktemp("run")
        given = [word.format(once=folder / "once") for word in words]
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the process that fails
            if title == FITTED:
                data = ["--task", "memory_chain:n=3", "--policy", "random", "--episodes", "90", "--jobs", "1"]
                assert run.main(["collect", *data, "--out", str(folder / "data")]) == 0
                given = ["fit", "--data", str(folder / "data"), *OPTIONS[:4], *given]
            else:
                given = [*OPTIONS, *given]
            assert run.main([*given, "--logdir", str(folder / "run")]) == 0
        found["Scalars"] |= {name for line in metrics_of(folder / "run") for name in line if name != "step"}
        values = [value for event in events(folder / "run") for value in event.summary.value]
        scalars = {value.tag for value in values if value.HasField("simple_value")}
        assert scalars <= found["Scalars"], f"{title}: TensorBoard has scalars that metrics.jsonl lacks"
        found["Pictures"] |= {value.tag for value in values if value.HasField("image")}
        found["Histograms"] |= {value.tag for value in values if value.HasField("histo")}
    return found


def named(kind: str) -> set[str]:
    """The names in the first column of the tables under a heading of the page."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {kind}\n")
    first = re.findall(r"^\| (`[^|]+) \|", section.partition("\n## ")[0], flags=re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def fits(name: str, pattern: str) -> bool:
    """Whether a logged name is one of the page's, in which `<...>` stands for one part."""
    return re.fullmatch(re.sub(r"<[^>]+>", "[^/]+", re.escape(pattern)), name) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_what_runs_log(kind: str, logged: dict[str, set[str]]) -> None:
    page = named(kind)
    assert page, f"{PAGE.name} has no names under {kind}"
    unnamed = {name for name in logged[kind] if not any(fits(name, pattern) for pattern in page)}
    assert not unnamed, f"logged, and not in {PAGE.name} under {kind}: {sorted(unnamed)}"
    unlogged = {pattern for pattern in page if not any(fits(name, pattern) for name in logged[kind])}
    assert not unlogged, f"in {PAGE.name} under {kind}, and logged by no run: {sorted(unlogged)}"


@pytest.mark.parametrize("page", ["new_tasks.md", "troubleshooting.md", "tour.ipynb"])
def test_the_guides_name_what_the_page_has(page: str) -> None:
    text = (PAGE.parent / page).read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:train|eval|episode|time)/[\w/<>]+)`", text))
    assert names and names <= named("Scalars")
