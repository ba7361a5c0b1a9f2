"""TensorBoard event files, for every backend alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from core.checkpoint import EpochRecord
from core.files import explained
from core.pictures import Sample, draw_sample
from core.training import Observer

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
        folder: Where the event files go.
        epochs: Epochs that an earlier part of the run has logged; later ones it logged are hidden.
        threshold: From which probability a pixel counts as found.
    """

    def __init__(self, folder: Path, epochs: int, threshold: float) -> None:
        self._threshold = threshold
        with explained(folder, "write"):
            folder.mkdir(parents=True, exist_ok=True)
            purge = epochs + 1 if epochs else None
            self._writer = SummaryWriter(str(folder), purge_step=purge)

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """Write the record; see the class."""
        for tag, name in _SCALARS.items():
            if (value := getattr(record, name)) is not None:
                self._writer.add_scalar(tag, value, record.epoch)
        if best:
            for number, sample in enumerate(samples, start=1):
                picture = draw_sample(sample, self._threshold)
                tag = f"validation/{number}"
                self._writer.add_image(tag, picture, record.epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
