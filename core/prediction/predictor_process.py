"""Models that predict in a backend's own process, while this one goes on.

Promises: the models of a predictor are compiled once, in the process, and stay there until the next
predictor is opened in it. Images are sent and probabilities come back; nothing else crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Implementation
from core.backend.devices import choose_device
from core.backend.process import BackendProcess
from core.prediction.trained_models import Member, Predictor

Probabilities = NDArray[np.float32]
BeginPrediction = Callable[[NDArray[np.float32]], Callable[[], Probabilities]]
"""Begins to predict (n, h, w, 1) images; what it gives waits for their (n, h, w, 1) probabilities."""

_opened: dict[str, Predictor] = {}  # of this process


class RemotePredictor:
    """Some models in a backend's process.

    Args:
        process: The backend's; its earlier predictor is forgotten.
        title: The framework's name for people.
        members: The models.
        device: What the user asked for: see `core.backend.devices`.
        flip: Whether mirror images are predicted too.

    Attributes:
        device: The device that was chosen.

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

    def begin(self, images: NDArray[np.float32]) -> Callable[[], Probabilities]:
        """See `Begin`."""
        future = self._process.start(_predict, images)
        return lambda: self._process.wait(future)


def _open(implementation: Implementation, title: str, members: list[Member], device: str, flip: bool) -> str:
    chosen = choose_device(device, implementation.list_devices(), title)
    _opened.clear()
    _opened["predictor"] = Predictor(members, implementation, chosen, flip=flip)
    return chosen


def _predict(implementation: Implementation, images: NDArray[np.float32]) -> Probabilities:
    del implementation
    return _opened["predictor"].predict(images)
