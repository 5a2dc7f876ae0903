"""The agent: acting, learning from imagination, the online loop, and what it writes.

`from agent import Agent` is a trained one in its user's hands (`agent.run.trained`). What learns is
`agent.agent.Agent`, which knows neither environments nor files.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.run.trained import TrainedAgent as Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> Any:
    if name == "Agent":  # imported when it is asked for: environments and checkpoints come with it
        from agent.run.trained import TrainedAgent

        return TrainedAgent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
