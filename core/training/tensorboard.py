"""Writer of TensorBoard event files, the same for every backend."""

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
from core.training.observers import Observer


@contextlib.contextmanager
def _only_modules_of(package: str) -> Iterator[None]:
    """Allow imports of modules of a package without running the package's own `__init__`."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        yield
        return
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]  # a later import gets the whole package


# The package itself imports another framework where one is installed, which is slow and loads its OpenMP.
with _only_modules_of("tensorboardX"):
    # Not SummaryWriter: on a full disk its thread dies, and the next flush waits for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import image, scalar

_SCALARS = {
    "loss/training": "loss",
    "loss/validation": "validation_loss",
    "dice/all": "dice",
    "dice/all_empty": "dice_all_empty",
    "dice/positive": "dice_positive",
    "auroc": "auroc",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
    "loss_scale/scale": "loss_scale",
    "loss_scale/skipped_steps": "skipped_steps",
}


class TensorBoardLog(Observer):
    """Observer that writes scalars of every epoch, and pictures of scored images of each new best epoch.

    Args:
        folder: Where the event file is written.
        epochs: Epochs that the run resumes after; epochs that an earlier part logged beyond them are hidden.
        threshold: The least probability of a pixel of the drawn mask.

    Raises:
        UserError: The file cannot be written. All methods raise it.
    """

    def __init__(self, folder: Path, epochs: int, threshold: float) -> None:
        self._folder, self._threshold = folder, threshold
        make_folder(folder)
        with explain_os_errors(folder, "write"):
            # tensorboardX names files by the second: a run resumed at once would replace the earlier file.
            self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
            if epochs:
                self._write(epochs + 1, session_log=SessionLog(status=SessionLog.START))
            self._file.flush()

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """Write the epoch's scalars, and the pictures of the samples if it is the new best."""
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
        """Write buffered events and close the file."""
        with explain_os_errors(self._folder, "write"):
            self._file.close()

    def _write(self, epoch: int, **content: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=epoch, **content))
