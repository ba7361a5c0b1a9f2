"""TensorBoard event files, for every backend alike."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.experiment.checkpoint import EpochRecord
from core.files.atomic import make_folder
from core.files.system_errors import explain_os_errors
from core.pictures.radiographs import Sample, draw_sample
from core.training.loop import Observer


@contextlib.contextmanager
def _only_modules_of(package: str) -> Iterator[None]:
    """Let modules of a package be imported without what the package itself imports."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        yield
        return
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]  # whoever imports it later gets the whole


# The package itself imports another framework where one is installed: seconds, and its own OpenMP.
with _only_modules_of("tensorboardX"):
    # Not SummaryWriter: its thread dies on a full disk, and the next flush then waits for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import image, scalar

_SCALARS = {
    "loss/training": "loss",
    "loss/validation": "validation_loss",
    "dice/all": "dice",
    "dice/all_empty": "dice_all_empty",
    "dice/positive": "dice_positive",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


class TensorBoardLog(Observer):
    """Scalars of every epoch, and pictures of scored images whenever the best model changes.

    Args:
        folder: Where the event file goes.
        epochs: Epochs that an earlier part of the run has logged; later ones it logged are hidden.
        threshold: From which probability a pixel counts as found.

    Raises:
        UserError: The file cannot be written, here or in any method.
    """

    def __init__(self, folder: Path, epochs: int, threshold: float) -> None:
        self._folder, self._threshold = folder, threshold
        make_folder(folder)
        with explain_os_errors(folder, "write"):
            # Named by the second alone, the file of a run resumed at once would replace the one before.
            self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
            if epochs:
                self._write(epochs + 1, session_log=SessionLog(status=SessionLog.START))
            self._file.flush()

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """Write the record; see the class."""
        with explain_os_errors(self._folder, "write"):
            for tag, name in _SCALARS.items():
                if (value := getattr(record, name)) is not None:
                    self._write(record.epoch, summary=scalar(tag, value))
            for number, sample in enumerate(samples if best else (), start=1):
                picture = draw_sample(sample, self._threshold)
                tag = f"{record.scored_on}/{number}"
                self._write(record.epoch, summary=image(tag, picture, dataformats="HWC"))
            self._file.flush()

    def close(self) -> None:
        """Write what is left."""
        with explain_os_errors(self._folder, "write"):
            self._file.close()

    def _write(self, epoch: int, **content: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=epoch, **content))
