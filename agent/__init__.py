"""The agent: acting, learning from imagination, the online loop, and what it writes.

For programs: `train` (`agent.run.loop`) and `Agent`, a trained one in its user's hands (`agent.run.trained`).
What learns is `agent.agent.Agent`, which knows neither environments nor files.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.run.loop import train
    from agent.run.trained import TrainedAgent as Agent

__all__ = ["Agent", "train"]


def __getattr__(name: str) -> Any:
    """Import what a program asks for; environments and checkpoints come with it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agent.run import loop, trained

    return loop.train if name == "train" else trained.TrainedAgent
