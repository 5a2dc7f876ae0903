"""Replay: what the environments produced, stored once and sampled as sequences."""

from replay.buffer import Replay
from replay.loader import Loader

__all__ = ["Loader", "Replay"]
