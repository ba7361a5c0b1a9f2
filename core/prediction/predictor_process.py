"""Prediction in a backend's own process, concurrent with this one.

The models of a predictor are compiled once in that process, and stay there until the next predictor is
opened. Only images are sent, and only probabilities are returned. With `SharedPrediction` several machines
predict, each with such a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Implementation
from core.backend.devices import choose_device
from core.backend.process import BackendProcess
from core.backend.registry import require_backend
from core.prediction.trained_models import Member, Prediction, Predictor, Resize
from core.processes.pool import Outcome
from core.scoring.views import PLAIN, Views

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
        views: The views of each image, and `resize` as for `Predictor`.
        resize: A function of a module, which the process imports.
        place: The number of this worker among those of its machine, which may each have a GPU.

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
        views: Views = PLAIN,
        resize: Resize | None = None,
        place: int = 0,
    ) -> None:
        self._process = process
        self.device = process.call(_open, title, list(members), device, views, resize, place)

    def begin(self, images: NDArray[np.float32]) -> Callable[[], Prediction]:
        """Start to predict: see `BeginPrediction`."""
        future = self.start(images)
        return lambda: self._process.wait(future)

    def start(self, images: NDArray[np.float32]) -> Future[Prediction]:
        """Start to predict: see `BeginPrediction`. `BackendProcess.wait` waits for the future."""
        return self._process.start(_predict, images)


@dataclass(frozen=True)
class SharedPrediction:
    """Work of `core.distribution.machines`: each machine predicts whole batches with a process of its own.

    An item is a batch of (n, h, w, 1) images, its result a `Prediction`. A machine gets a
    whole batch, because with another number of images a framework may add in another order.

    Args:
        framework: The backend's registered name.
        members: The models.
        device: The device that each machine asks for: see `core.backend.devices`.
        views: The views of each image.
        resize: As for `Predictor`; a function of a module, which the machines import.
    """

    framework: str
    members: Sequence[Member]
    device: str
    views: Views
    resize: Resize | None

    def slots(self, processes: int) -> int:
        """Return 1: a machine predicts one batch at a time, on all its cores or on its GPU."""
        del processes
        return 1

    def open(self, processes: int, place: int) -> OpenPredictor:
        """Compile the models in a process of this machine.

        Raises:
            UserError: There is no such device, or the backend refuses the models.
        """
        del processes
        return OpenPredictor(self, place)


class OpenPredictor:
    """The process of one machine.

    Args:
        shared: What it predicts with.
        place: The number of this worker among those of its machine.

    Raises:
        UserError: See `RemotePredictor`.
    """

    def __init__(self, shared: SharedPrediction, place: int) -> None:
        self._process = BackendProcess(shared.framework)
        self._futures: dict[int, Future[Prediction]] = {}
        title = require_backend(shared.framework).title
        try:
            self._predictor = RemotePredictor(
                self._process,
                title,
                shared.members,
                shared.device,
                views=shared.views,
                resize=shared.resize,
                place=place,
            )
        except BaseException:
            self._process.close()
            raise

    def submit(self, number: int, items: Sequence[NDArray[np.float32]]) -> None:
        """Take a batch, which is one item."""
        (images,) = items
        self._futures[number] = self._predictor.start(images)

    def finished(self) -> Mapping[int, Outcome]:
        """Return the predictions that are there by now."""
        done = [number for number, future in self._futures.items() if future.done()]
        return {number: self._outcome(self._futures.pop(number)) for number in done}

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _outcome(self, future: Future[Prediction]) -> Outcome:
        try:
            return [self._process.wait(future)], None
        except Exception as error:
            return [], error


def _open(
    implementation: Implementation,
    title: str,
    members: list[Member],
    device: str,
    views: Views,
    resize: Resize | None,
    place: int,
) -> str:
    chosen = choose_device(device, implementation.list_devices(), title, place)
    _opened.clear()
    _opened["predictor"] = Predictor(members, implementation, chosen, views=views, resize=resize)
    return chosen


def _predict(implementation: Implementation, images: NDArray[np.float32]) -> Prediction:
    del implementation
    return _opened["predictor"].predict_with_existence(images)
