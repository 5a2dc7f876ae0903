"""Replay: what the environments produced, stored once and sampled as sequences.

The words of this room: a stream is all that one environment produces, a row one moment of it (row n of all
streams belongs together; users know rows as stored steps), a window T consecutive rows of one stream, and a
chunk a file of consecutive rows of one stream.
"""

from replay.buffer import Replay

__all__ = ["Replay"]
