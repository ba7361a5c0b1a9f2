"""The model that `predict` runs, with its backend, device and thresholds."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.backend.contract import Backend
from core.commands.shared.versions import TOOL
from core.prediction.trained_models import Member
from core.scoring.thresholds import Thresholds
from core.scoring.views import Views
from core.tasks.predictions import PredictionSettings

if TYPE_CHECKING:
    from data.submissions.dicom_segmentation import Algorithm


@dataclass(frozen=True)
class LoadedModel:
    """One or more trained models, and how they predict.

    Args:
        backend: The framework's descriptor.
        device: Where the backend computes.
        members: The models; several are an ensemble.
        decision: Thresholds, and the views of an image.
    """

    backend: Backend
    device: str
    members: Sequence[Member]
    decision: PredictionSettings

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that turn probabilities into a mask."""
        return self.decision.thresholds

    @property
    def views(self) -> Views:
        """The views whose predictions are averaged."""
        return self.decision.views

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's images."""
        data = self.members[0].checkpoint.data
        return data.height, data.width

    @functools.cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of each member's checkpoint file."""
        return [hashlib.sha256(member.path.read_bytes()).hexdigest() for member in self.members]

    def algorithm(self) -> Algorithm:
        """Return the description of the model that a DICOM Segmentation object has."""
        # Imported here since it is slow, and only --dicom-seg needs it.
        from data.submissions.dicom_segmentation import Algorithm

        combined = hashlib.sha256("".join(self.hashes).encode()).hexdigest()
        parameters = f"{self.thresholds}{', ' if self.views.extras else ''}{self.views.extras}"
        return Algorithm(TOOL, importlib.metadata.version(TOOL), combined[:16], parameters)
