"""What the site has beside docs/: README as its front page, and the API from the docstrings."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

API = {
    "Use and train": [
        *("agent.run.trained.TrainedAgent", "agent.run.trained.Imagined"),
        *("agent.run.loop.train", "configs.load"),
    ],
    "Environments": ["envs.make", "envs.make_raw", "envs.interface.Interface", "envs.vector.VectorDoor"],
    "World models": [
        *(
            "worldmodels.base.Backbone",
            "worldmodels.s4wm.S4WM",
            "worldmodels.rssm.RSSM",
            "worldmodels.tssm.TSSM",
        ),
        *("worldmodels.world_model.WorldModel", "worldmodels.ssm.layer.Layer"),
    ],
    "The agent": ["agent.agent.Agent", "agent.actor_critic.ActorCritic", "agent.imagination.imagine"],
    "Replay": ["replay.Replay"],
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    root = Path(config.config_file_path or ".").parent
    front = (root / "README.md").read_text(encoding="utf-8")
    api = "# API\n\n" + "\n\n".join(
        f"## {title}\n\n" + "\n\n".join(f"::: {name}\n    options: {{heading_level: 3}}" for name in names)
        for title, names in API.items()
    )
    for name, text in (("index.md", re.sub(r"\]\(docs/", "](", front)), ("api.md", api)):
        files.append(File.generated(config, name, content=text))
    return files
