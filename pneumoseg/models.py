"""Load trained models, predict radiographs with them, and score them.

A prediction equals that of the command `predict` with the same models, thresholds and backend, pixel for
pixel. Everything runs in this process. Threads may share a model; its network then serves one at a time.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Backend, Implementation
from core.backend.devices import choose_device
from core.backend.registry import load_backend
from core.base.errors import UserError
from core.prediction.predictor_process import BeginPrediction
from core.prediction.trained_models import Member, Predictor, find_members, has_existence
from core.scoring.evaluation_record import Evaluation
from core.scoring.thresholds import Thresholds
from core.tasks.backend_choice import choose_predictor
from core.tasks.evaluation import EvaluatedModel, SplitName
from core.tasks.evaluation import evaluate as evaluate_subject
from core.tasks.predictions import (
    Box,
    PredictionSettings,
    area_in_mm2,
    box_around,
    choose_settings,
    segment_image,
)
from core.tasks.progress import Watcher
from core.tasks.scoring import open_here
from core.tasks.validation_split import clahe_of
from data.hdf5.store import Store
from data.radiographs.network_image import network_image
from data.radiographs.resize import resize_image
from pneumoseg.data_files import DataFile
from pneumoseg.radiographs import PathLike, Radiograph, Source, UnreadableImage, read_radiograph


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one radiograph, at its original size. docs/prediction.md explains the numbers.

    Attributes:
        id: The image's id.
        probability: (height, width) float32 in [0, 1], for each pixel that it belongs to a pneumothorax.
        mask: (height, width) uint8 in {0, 1}.
        existence: The confidence that there is a pneumothorax, in [0, 1]: the existence score of
            `core.scoring.thresholds`.
        area_mm2: The area of the mask in mm2; None if the size of a pixel is unknown.
        box: The bounding box of the mask; None if the mask is empty.
        notes: Remarks on the image ("the first of 3 frames"), or "".
        existence_probability: The existence head's probability, in [0, 1]; None if the network has none.
    """

    id: str
    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]
    existence: float
    area_mm2: float | None
    box: Box | None
    notes: str = ""
    existence_probability: float | None = None

    @functools.cached_property
    def pixels(self) -> int:
        """The number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def positive(self) -> bool:
        """Whether a pneumothorax was found."""
        return self.pixels > 0


class Model:
    """A trained model or an ensemble of several. `load_model` returns it.

    Attributes:
        folders: The folders of the models.
        backend: The name of the backend.
        device: The device that computes.
        thresholds: The thresholds that turn probabilities into a mask.
        thresholds_from: "tuned" (saved with the model), "default" (none were saved) or "given".
        height: Height of the network's input; images of any size are resized to it.
        width: Width of the network's input.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        members: Sequence[Member],
        backend: Backend,
        implementation: Implementation,
        device: str,
        decision: PredictionSettings,
    ) -> None:
        self.folders = tuple(folders)
        self.backend, self.device = backend.name, device
        self.thresholds, self.thresholds_from = decision.thresholds, decision.origin
        self._members, self._descriptor, self._implementation = members, backend, implementation
        self._decision, self._lock = decision, threading.Lock()
        self._predictor = Predictor(
            members, implementation, device, views=decision.views, resize=resize_image
        )
        self.height, self.width = self._predictor.height, self._predictor.width

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.folders))
        return f"<pneumoseg.Model {names} on {self.backend}, {self.device}; {self.height}x{self.width}>"

    def predict(self, source: Source) -> Prediction:
        """Predict one radiograph.

        Args:
            source: A DICOM file, its bytes, a pydicom data set, an array (as for `Radiograph.from_array`) or
                a `Radiograph`.

        Raises:
            UnreadableImage: The radiograph cannot be read; the message says why.
        """
        (found,) = self._predicted([read_radiograph(source)])
        return found

    def predict_all(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 16,
        unreadable: Callable[[UnreadableImage], object] | None = None,
    ) -> Iterator[Prediction]:
        """Predict many radiographs in batches. Memory does not grow with their number.

        Args:
            sources: As for `predict`; `find_radiographs` returns the files of a folder.
            batch_size: The number of images that the network takes at a time.
            unreadable: Is called with the error of each unreadable radiograph (for example `errors.append`),
                which is then skipped. If None, the error is raised.

        Yields:
            One prediction for each readable radiograph, in the given order.

        Raises:
            Error: The batch size is below 1, or, while iterating, a radiograph is unreadable.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1. Received: {batch_size}")
        return self._all(sources, batch_size, unreadable)

    def _all(
        self,
        sources: Iterable[Source],
        batch_size: int,
        unreadable: Callable[[UnreadableImage], object] | None,
    ) -> Iterator[Prediction]:
        waiting: list[Radiograph] = []
        for source in sources:
            try:
                waiting.append(read_radiograph(source))
            except UnreadableImage as error:
                if unreadable is None:
                    raise
                unreadable(error)
            if len(waiting) == batch_size:
                yield from self._predicted(waiting)
                waiting = []
        if waiting:
            yield from self._predicted(waiting)

    def _predicted(self, radiographs: Sequence[Radiograph]) -> list[Prediction]:
        size, clahe = (self.height, self.width), clahe_of(self._members)
        images = np.stack([network_image(one.values, *size, one.full, clahe) for one in radiographs])
        with self._lock:
            found = self._predictor.predict_with_existence(images[..., np.newaxis])
        return [
            self._prediction(one, found.masks[number, ..., 0], found.existence_of(number))
            for number, one in enumerate(radiographs)
        ]

    def _prediction(
        self, radiograph: Radiograph, probability: NDArray[np.float32], existence: float | None
    ) -> Prediction:
        found = segment_image(probability, radiograph.height, radiograph.width, self.thresholds, existence)
        return Prediction(
            id=radiograph.id,
            probability=found.probability,
            mask=found.mask,
            existence=found.existence,
            area_mm2=area_in_mm2(radiograph.geometry, int(np.count_nonzero(found.mask))),
            box=box_around(found.mask),
            notes=radiograph.notes,
            existence_probability=found.existence_probability,
        )

    def _evaluate(self, store: Store, split: SplitName, batch_size: int) -> Evaluation:
        def open_models(some: Sequence[Member]) -> tuple[BeginPrediction, str]:
            begin = open_here(some, self._implementation, self.device, views=self._decision.views)
            return begin, self.device

        subject = EvaluatedModel(self._descriptor, self.folders, self._members, self._decision)
        with self._lock:
            return evaluate_subject(
                Watcher(),
                store,
                subject,
                open_models,
                data=str(store.path),
                split=split,
                batch_size=batch_size,
            )


def load_model(
    folder: PathLike | Sequence[PathLike],
    *,
    backend: str | None = None,
    device: str = "auto",
    tta: bool | None = None,
    scales: Sequence[float] | None = None,
    thresholds: Thresholds | None = None,
) -> Model:
    """Load a trained model.

    Args:
        folder: The folder of a model, trained with any backend. Several folders are an ensemble, whose
            probability is the mean of its members'; a folder with `fold0/`, `fold1/`, … is such an ensemble.
        backend: The name of the backend that computes; None is ONNX Runtime if installed, else the first
            installed backend that can predict with the model.
        device: "auto", "cpu", "gpu" or "gpu:N".
        tta: Whether to predict mirror images too (test-time augmentation). None does what the search of the
            saved thresholds did.
        scales: Multiples of the image's size at which to predict; the mean is taken. None does what the
            search of the saved thresholds did.
        thresholds: The thresholds that turn probabilities into a mask. None takes those saved with the model;
            `existence=None` takes the model's own existence threshold.

    Raises:
        Error: The model, the backend or the device does not exist.
    """
    several = [folder] if isinstance(folder, str) or not isinstance(folder, Sequence) else list(folder)
    if not several:
        raise UserError("load_model needs at least one folder. Received: none")
    folders = [Path(one) for one in several]
    members = find_members(folders)
    changes = {} if thresholds is None else asdict(thresholds)
    decision = choose_settings(folders, changes, tta, scales, head=has_existence(members))
    descriptor, implementation = load_backend(backend or choose_predictor(members, device).name)
    chosen = choose_device(device, implementation.list_devices(), descriptor.title)
    return Model(folders, members, descriptor, implementation, chosen, decision)


def evaluate(
    model: Model, data: PathLike | DataFile, *, split: SplitName = "validation", batch_size: int = 16
) -> Evaluation:
    """Score a model on the images of a data file, at their original size, as the competition does.

    Args:
        model: The model.
        data: The path of a data file, or an open one.
        split: "validation" for the images that the training held out, "all" for every image of the file.
        batch_size: The number of images at a time.

    Returns:
        The evaluation: `summary` has the scores (`summary.dice`, its all-negative baseline
        `summary.dice_all_empty`, `summary.auroc`, …), `rows` has one entry per image, `image_calibration` and
        `pixel_calibration` have the calibration.

    Raises:
        Error: The images have another size, have no annotations, or are not those of the training.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1. Received: {batch_size}")
    if split not in ("validation", "all"):
        raise UserError(f"split: expected 'validation' or 'all'. Received: {split!r}")
    if isinstance(data, DataFile):
        return model._evaluate(data.store, split, batch_size)
    with Store.open(Path(data)) as store:
        return model._evaluate(store, split, batch_size)
