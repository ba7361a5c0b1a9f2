"""Prediction in a backend's own process, concurrent with this one.

The models of a predictor are compiled once in that process, and stay there until the next predictor is
opened. Only images are sent, and only probabilities are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Implementation
from core.backend.devices import choose_device
from core.backend.process import BackendProcess
from core.prediction.trained_models import Member, Prediction, Predictor

BeginPrediction = Callable[[NDArray[np.float32]], Callable[[], Prediction]]
"""Starts to predict (n, h, w, 1) images; the returned function waits for the probabilities."""

_opened: dict[str, Predictor] = {}  # the predictor of the current process


class RemotePredictor:
    """Models that are compiled and run in a backend's process.

    Args:
        process: The backend's process; its earlier predictor is replaced.
        title: The framework's name for people.
        members: The models.
        device: The device that the user asked for: see `core.backend.devices`.
        flip: Whether predictions are averaged with those of mirror images.

    Attributes:
        device: The device in use.

    Raises:
        UserError: There is no such device, or the backend refuses the models.
    """

    def __init__(
        self,
        process: BackendProcess,
        title: str,
        members: Sequence[Member],
        device: str,
        *,
        flip: bool = False,
    ) -> None:
        self._process = process
        self.device = process.call(_open, title, list(members), device, flip)

    def begin(self, images: NDArray[np.float32]) -> Callable[[], Prediction]:
        """Start to predict: see `BeginPrediction`."""
        future = self._process.start(_predict, images)
        return lambda: self._process.wait(future)


def _open(implementation: Implementation, title: str, members: list[Member], device: str, flip: bool) -> str:
    chosen = choose_device(device, implementation.list_devices(), title)
    _opened.clear()
    _opened["predictor"] = Predictor(members, implementation, chosen, flip=flip)
    return chosen


def _predict(implementation: Implementation, images: NDArray[np.float32]) -> Prediction:
    del implementation
    return _opened["predictor"].predict_with_existence(images)
