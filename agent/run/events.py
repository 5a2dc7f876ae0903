"""TensorBoard's event files, written and read.

They are written by the calling thread: tensorboardX's own writer thread dies silently on a full disk and then
blocks the caller for ever, so its record format is used without the thread.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from replay.files import naming

HEAD, TAIL = 12, 4  # bytes around a record: its length with a checksum, and a checksum of the content


class Events:
    """A TensorBoard event file in `folder`, written only when told to.

    With a `resume_step`, what an earlier session logged of later steps is hidden.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        # tensorboardX names files by the second: the suffix keeps two sessions of one second apart
        self._path = folder
        self._writer: EventsWriter | None = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        if resume_step:
            start = Event(wall_time=time.time(), step=resume_step + 1)
            start.session_log.status = SessionLog.START
            self._writer.write_event(start)

    def write(self, step: int, *summaries: Summary) -> None:
        """Write summaries as one event; the first one 20 seconds after a flush flushes again."""
        if self._writer is None:
            raise ValueError("the logger is closed.")
        event = Event(wall_time=time.time(), step=int(step))
        for part in summaries:
            event.summary.value.extend(part.value)
        with naming(self._path, "the log"):
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > 20:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        if self._writer is not None:
            with naming(self._path, "the log"):
                self._writer.close()
            self._writer = None


def read(folder: Path) -> Iterator[Event]:
    """The events of a folder, in the order written; a record that is cut or damaged ends its file."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        left = path.stat().st_size
        with path.open("rb") as file:
            while len(head := file.read(HEAD)) == HEAD:
                length = int.from_bytes(head[:8], "little")
                left -= HEAD + length + TAIL
                if left < 0:
                    break
                try:
                    yield Event.FromString(file.read(length))
                except DecodeError:
                    break
                file.seek(TAIL, 1)
