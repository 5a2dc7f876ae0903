"""Write what there is to know of runs on one page: returns, pictures, configuration, what they cost."""

from __future__ import annotations

import argparse
import base64
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import configs
import envs
from agent.run.folder import RunFolder
from agent.run.writers import read_events
from configs.command_line import Parser, Work
from configs.files import read_lines
from replay.files import publish, writable
from studies import plots
from studies.curves import METRIC, read_curve

METRICS = {METRIC: "Return in evaluation", "eval/gen_error": "Error of what is imagined of held-out episodes"}
RETURN = "{eval/return_mean:.4g} (deviation {eval/return_std:.2g}, {eval/episodes} episodes)"
INK = "#010203"  # stands for the page's colour of text
STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "legend.frameon": False,
    "svg.fonttype": "none",
    "font.size": 11,
}
KINDS = {b"\x89PNG": "png", b"GIF8": "gif"}
CSS = """
:root{color-scheme:light dark;--ink:#1d1e20;--paper:#fff;--soft:#f1f2f4;--line:#d3d6da}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e3;--paper:#17181b;--soft:#232529;--line:#3d4047}}
body{color:var(--ink);background:var(--paper);font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;
max-width:76rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem}h3{font-size:1rem}
table{border-collapse:collapse;font-size:.87rem}th,td{text-align:left;vertical-align:top;padding:.25rem .7rem;
border-bottom:1px solid var(--line);overflow-wrap:anywhere;min-width:6rem;max-width:26rem}
th:first-child{position:sticky;left:0;background:var(--paper)}thead th{background:var(--soft)!important}
.wide{overflow-x:auto}.wide img{min-width:40rem}figure{margin:1rem 0}figcaption{font-size:.87rem}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
svg{width:100%;height:auto}img{max-width:100%;background:#fff}.gif img{min-width:0}
code{overflow-wrap:anywhere}
"""


def arguments(parser: Parser) -> None:
    """The runs, and the page."""
    runs = "run folders, or folders of them"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=runs)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.html", help="page to write")


def prepare(args: argparse.Namespace) -> Work:
    """See `Told` and `page`."""
    out = writable(args.out, (".html", ".htm"))
    folders = list(dict.fromkeys(path.absolute() for place in args.runs for path in plots.runs_in(place)))
    above = Path(os.path.commonpath([folder.parent for folder in folders]))
    runs = [Told.of(folder, str(folder.relative_to(above))) for folder in folders]

    def work() -> tuple[Mapping[str, Any], str]:
        out.parent.mkdir(parents=True, exist_ok=True)
        publish(out, page(runs), "the report")
        return {"out": str(out), "runs": [str(run.folder) for run in runs]}, str(out)

    return work


@dataclass
class Told:
    """What a run's folder tells.

    Attributes:
        name: by which the page calls it.
        last: name of a number -> the newest one logged, with `step`.
        images: caption -> a PNG or GIF.
        memory: for each layer, edges and counts of the steps that states last, as their logarithm to base 10.
    """

    folder: RunFolder
    name: str
    config: configs.Config
    sessions: list[dict[str, Any]]
    last: dict[str, Any]
    images: dict[str, bytes]
    memory: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, path: Path, name: str) -> Told:
        """Read a run's folder.

        Raises:
            ValueError: it is no run's, or a file in it is damaged.
        """
        folder = RunFolder(path)
        config = folder.configuration(checkpoint=False)
        last: dict[str, Any] = {}
        for line in read_lines(path / "metrics.jsonl"):
            last |= {key: value for key, value in line.items() if isinstance(value, int | float)}
        images, memory = _logged(path)
        for place in (path / "imagine", path):  # where imagine draws, and where eval --video may film
            drawn = {*place.glob("open_loop_*_0.png"), *place.glob("*.gif"), *place.glob("probe.png")}
            images |= {str(each.relative_to(path)): each.read_bytes() for each in sorted(drawn)}
        shown = {caption: image for caption, image in images.items() if image[:4] in KINDS}
        return cls(folder, name, config, list(folder.sessions()), last, shown, memory)

    def facts(self) -> dict[str, str]:
        """What stands in the table of runs."""
        last, step, seconds = self.last, self.last.get("step", 0), self.last.get("time/seconds", 0.0)
        session = self.sessions[-1] if self.sessions else {}
        machine = dict.fromkeys(("gpu", "cpu", "cpus", "torch"), "?") | session.get("hardware", {})
        found = {
            "task": self.config.task,
            "world model": configs.label(self.config.backbone),
            "seed": self.config.seed,
            "return": RETURN.format_map(last) if METRIC in last else None,
            "error imagined": last.get("eval/gen_error"),
            "steps": f"{step:,} of {self.config.steps:,}",
            "updates": f"{last.get('time/updates', 0):,}",
            "minutes of training": f"{seconds / 60:.1f}",
            "steps a second": f"{step / seconds:,.0f}" if seconds else None,
            "hardware": "{cpus} cores {cpu}, GPU {gpu}, torch {torch}".format_map(machine),
            "commits": ", ".join(commit[:10] + commit[40:] for commit in self.folder.commits()),
            "sessions, the newest of": f"{len(self.sessions)}, {session.get('began')}",
            "command": session.get("command"),
        }
        return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _logged(path: Path) -> tuple[dict[str, bytes], list[tuple[np.ndarray, np.ndarray]]]:
    """The newest pictures of the first row, and how long states last, in a folder's TensorBoard events."""
    images: dict[str, tuple[int, bytes]] = {}
    memory: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for event in read_events(path):
        for value in event.summary.value:
            if value.HasField("image") and value.tag.endswith(("/0", "/video")):
                images[value.tag] = event.step, value.image.encoded_image_string
            elif value.HasField("histo") and value.tag.startswith("memory_log10_steps/"):
                memory[value.tag] = np.array(value.histo.bucket_limit), np.array(value.histo.bucket)[1:]
    return {f"{tag}, at step {step:,}": image for tag, (step, image) in images.items()}, list(memory.values())


def page(runs: Sequence[Told]) -> str:
    """The page of some runs, as HTML that needs nothing else."""
    title = escape(", ".join(dict.fromkeys(run.config.task for run in runs)))
    ends = {run.name: run.last[METRIC] for run in runs if METRIC in run.last}
    listed = ", ".join(f"{name} {ends[name]:.4g}" for name in sorted(ends, key=lambda name: -ends[name]))
    facts = [run.facts() for run in runs]
    rows = {key: [each.get(key, "") for each in facts] for each in facts for key in each}
    body = [
        f"<h1>{title}</h1><p>Mean return at the end: <b>{escape(listed or 'none yet')}</b></p>",
        *_returns(runs),
        "<h2>Runs, and what they cost</h2>",
        _table(["", *(run.name for run in runs)], rows),
        *_news(runs),
        *_pictures(runs),
        *_configuration(runs),
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f"<head>{meta}<title>{title}</title><style>{CSS}</style></head>"
    return "\n".join(['<!doctype html><html lang="en">', head, "<body>", *body, "</body></html>", ""])


def _returns(runs: Sequence[Told]) -> Iterator[str]:
    """Curves of evaluations, of each task and number that was logged, against steps and minutes."""
    colours = {run.name: f"C{number}" for number, run in enumerate(runs)}
    for metric, title in METRICS.items():
        groups: dict[str, dict[str, list[Any]]] = {}
        for run in runs:
            curve = read_curve(run.folder.path, metric)
            if curve.steps.size:
                groups.setdefault(run.config.task, {})[run.name] = [curve]
        for task, group in groups.items():
            yield f"<h2>{title}: {escape(task)}</h2><div class='side'>"
            best = _optimum(task) if metric == METRIC else None
            given: dict[str, Any] = {"group": group, "colours": colours, "optimum": best, "metric": metric}
            yield from (_svg(partial(plots.panel, axis=axis, **given)) for axis in plots.AXES)
            yield "</div>"


def _optimum(task: str) -> float | None:
    """The best mean return, where it is known and the task's environment is installed here."""
    try:
        return envs.optimum(task)
    except (ImportError, ValueError):
        return None


def _news(runs: Sequence[Told]) -> Iterator[str]:
    """The KL by step of an episode, and how long the layers' states last."""
    kls = [sorted((int(k[11:]), kl) for k, kl in run.last.items() if k[:11] == "kl_by_step/") for run in runs]
    ages = sorted({age for found in kls for age, _ in found})

    def kl(axes: Axes) -> None:
        for run, found in zip(runs, kls, strict=True):
            axes.plot(*np.reshape(found, (-1, 2)).T, marker=".", label=run.name)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(ages, map(str, ages))
        axes.set(
            xlabel="steps since the episode began", ylabel="KL of posterior and prior, nats", ylim=(0, None)
        )

    def lasting(axes: Axes) -> None:
        for number, run in enumerate(runs):
            for layer, (edges, counts) in enumerate(run.memory):
                label, every = f"{run.name}, layer {layer}", np.arange(0, len(counts), 4)
                bars = axes.stairs(np.add.reduceat(counts, every), 10 ** edges[[*every, -1]], label=label)
                bars.set(color=f"C{number}", linestyle=("-", "--", ":", "-.")[layer % 4])
        axes.set(xscale="log", xlabel="steps until a state has decayed to 1/e", ylabel="states of a layer")

    drawn = [*([kl] if ages else []), *([lasting] if any(run.memory for run in runs) else [])]
    if drawn:
        yield "<h2>What was news, and how long states last</h2><div class='side'>"
        yield from map(_svg, drawn)
        yield "</div>"


def _pictures(runs: Sequence[Told]) -> Iterator[str]:
    yield "<h2>What is seen, and what is foreseen</h2>"
    for run in runs:
        yield f"<h3>{escape(run.name)}</h3>"
        if not run.images:
            command = f"python run.py imagine {escape(str(run.folder))}"
            yield f"<p>No picture yet; this draws some: <code>{command}</code></p>"
        for caption, image in run.images.items():
            kind, text = KINDS[image[:4]], escape(caption)
            data = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
            shown = f"<div class='wide {kind}'><img alt='{text}' src='{data}'></div>"
            yield f"<figure>{shown}<figcaption>{text}</figcaption></figure>"


def _configuration(runs: Sequence[Told]) -> Iterator[str]:
    """The options that are not the defaults, before others those that differ or that no size explains."""
    defaults = {option.key: option.default for option in configs.describe()}
    flat = [run.config.flat() for run in runs]
    sizes, own = zip(*(_beside_a_size(run.config) for run in runs), strict=True)
    changed = {key: [each[key] for each in flat] for key in defaults}
    changed = {key: values for key, values in changed.items() if any(v != defaults[key] for v in values)}
    yield "<h2>Configuration against the defaults</h2>"
    first = {key for key in changed if len({*changed[key]}) > 1 or any(key in chosen for chosen in own)}
    preset = f"Set by the preset ({', '.join(dict.fromkeys(sizes))}), the backbone or the task, alike in all"
    parts = (("Chosen, or different among the runs", first), (preset, changed.keys() - first))
    for title, keys in parts:
        rows = {
            key: [configs.typed(value) for value in (defaults[key], *changed[key])]
            for key in changed
            if key in keys
        }
        shown = _table(["option", "default", *(run.name for run in runs)], rows)
        yield f"<details{' open' * (keys is first)}><summary>{title}: {len(keys)}</summary>{shown}</details>"


def _beside_a_size(config: configs.Config) -> tuple[str, set[str]]:
    """The size preset that a configuration is nearest to, and the options in which it differs from it."""
    found = {}
    for size in configs.presets():
        base = configs.load(config.task, config.backbone, [size])
        found[size] = {*configs.differences(base, config)}
    return min(found.items(), key=lambda item: len(item[1]))


def _table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table whose rows have names."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = (
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return (
        f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _svg(draw: Callable[[Axes], None]) -> str:
    """A figure in the page's colours."""
    with rc_context(STYLE):
        figure, text = Figure(figsize=(6.4, 4), layout="constrained"), io.StringIO()
        draw(axes := figure.subplots())
        axes.legend()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    _, begin, rest = text.getvalue().partition("<svg ")
    head, end, body = rest.partition(">")
    size = [word for word in head.split('" ') if not word.startswith(("width=", "height="))]
    return begin + '" '.join(size) + end + body.replace(INK, "currentColor")
