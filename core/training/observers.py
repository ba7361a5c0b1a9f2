"""The interface by which a training run reports its progress, for example to a console or TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

from core.base.errors import UserError
from core.experiment.checkpoint import EpochRecord
from core.pictures.radiographs import Sample
from core.training.weight_averaging import WeightAverage


class Observer:
    """Base class of observers of a run; every method does nothing unless a subclass overrides it."""

    def epoch_started(self, epoch: int, done: int, batches: int) -> None:
        """Epoch `epoch` begins or is resumed; `done` of its `batches` batches are done."""

    def batch_trained(self, loss: float) -> None:
        """One more batch is done; `loss` is the newest loss that is known."""

    def scoring_started(self, batches: int) -> None:
        """Training of the epoch is over; `batches` batches will be scored."""

    def batch_scored(self) -> None:
        """One more batch is scored."""

    def averaging_started(self, batches: int) -> None:
        """Statistics of averaged weights will be computed; `batch_scored` follows for each of `batches`."""

    def export_left_out(self, missing: UserError) -> None:
        """No export was written, because a package is missing."""

    def averaged(self, average: WeightAverage) -> None:
        """The best epochs were averaged and the average scored."""

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """The epoch is scored and its checkpoint written; `best` tells whether it is the new best epoch."""
