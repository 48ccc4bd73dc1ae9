"""Metrics of a training run on disk: JSON lines and TensorBoard."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asr.errors import FileError
from asr.files import reporting_disk_errors


class Metrics(contextlib.AbstractContextManager["Metrics"]):
    """Writes one JSON object per line to `folder/metrics.jsonl`, and its numbers to TensorBoard.

    `resume_at` is the size of the file in bytes at the checkpoint (`position`): later lines belong to
    steps that will be repeated, and are cut off. `epochs` are the rows of the epochs so far, and
    `lost` is True if the file was shorter than `resume_at`. As a context manager it closes both files.

    All methods raise FileError if the files cannot be written.
    """

    def __init__(self, folder: Path, resume_at: int = 0, step: int = 0) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.lost = False
        self._path = folder / "metrics.jsonl"
        with self._reporting_errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab+")
            self._file.seek(0)
            whole = 0  # size in bytes of the lines that are kept
            for line in self._file:
                if whole + len(line) > resume_at or not line.endswith(b"\n"):
                    break
                whole += len(line)
                if line.startswith(b'{"kind": "epoch"'):
                    with contextlib.suppress(ValueError):
                        self.epochs.append(json.loads(line))
            self.lost = whole < resume_at
            self._file.truncate(whole)
            self._board = _Board(folder / "tensorboard", step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add a line of a kind ("step", "skipped" or "epoch") for the training step `step`."""
        row = {"kind": kind, "step": step, **values}
        if kind == "epoch":
            self.epochs.append(row)
        with self._reporting_errors():
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            for name, value in values.items():
                if isinstance(value, int | float) and name != "epoch":
                    self._board.write_value(step, f"{kind}/{name}", simple_value=value)

    def write_samples(self, step: int, samples: Iterable[tuple[str, str, str]]) -> None:
        """Show some utterances in TensorBoard, each as (id, reference, hypothesis)."""
        with self._reporting_errors():
            for number, (name, reference, hypothesis) in enumerate(samples, start=1):
                markdown = f"{name}\n\n    {reference}\n    {hypothesis}"
                self._board.write_value(
                    step,
                    f"dev/sample {number}",
                    metadata={"plugin_data": {"plugin_name": "text"}},
                    tensor={"dtype": "DT_STRING", "string_val": [markdown.encode()]},
                )

    def position(self) -> int:
        """Sync everything to the disk and return the size of metrics.jsonl in bytes."""
        with self._reporting_errors():
            self._board.records.flush()
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """Flush and close both files."""
        with self._reporting_errors(), contextlib.closing(self._board.records):
            self._file.close()

    def __exit__(self, _type: object, error: object, _traceback: object) -> None:
        # An error while closing is suppressed if another is being raised: data up to the last
        # checkpoint is already on disk.
        with contextlib.suppress(FileError) if error else contextlib.nullcontext():
            self.close()

    def _reporting_errors(self) -> contextlib.AbstractContextManager[None]:
        return reporting_disk_errors(
            f"{self._path} or the TensorBoard files beside it could not be written",
            ", and run the same command again to resume from the last checkpoint, which is intact",
        )


class _Board:
    """A file of TensorBoard events. Torch's own writer loses the errors of its writing thread.

    TensorBoard then hides events from step `first_step` on in older files, because these steps are
    repeated.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._new_event = Event
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, so the name starts with the time.
        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self.records = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log={"status": "START"})

    def write_value(self, step: int, name: str, **content: Any) -> None:
        self._write(step=step, summary={"value": [{"tag": name, **content}]})

    def _write(self, **content: Any) -> None:
        event = self._new_event(wall_time=time.time(), **content)
        self.records.write(event.SerializeToString())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `folder/metrics.jsonl`, oldest first, without damaged ones."""
    rows = []
    with (folder / "metrics.jsonl").open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows
