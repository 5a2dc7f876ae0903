"""Replay: what the environments produced, stored once and sampled as sequences."""

from replay.buffer import Replay

__all__ = ["Replay"]
