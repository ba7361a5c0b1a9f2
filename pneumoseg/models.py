"""Trained models that answer: is there a pneumothorax, where, and how sure.

Promises: an answer is that of `predict` with the same models, thresholds and backend, pixel for pixel.
Everything happens in this process; threads may share a model, whose network then takes one of them at a time.
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
from core.prediction.trained_models import Member, Predictor, find_members
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
from data.hdf5.store import Store
from pneumoseg.data_files import DataFile
from pneumoseg.radiographs import PathLike, Radiograph, Source, UnreadableImage, read_radiograph


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one radiograph, at its original size. docs/prediction.md says what the numbers mean.

    Attributes:
        id: What the image is called.
        probability: (height, width) float32 in [0, 1], that a pixel belongs to a pneumothorax.
        mask: (height, width) uint8 in {0, 1}.
        existence: How sure it is that there is a pneumothorax, in [0, 1]: see `core.scoring.thresholds`.
        area_mm2: Area of the mask in mm2; None where the size of a pixel is not known.
        box: The smallest rectangle around the mask; None if it is empty.
        notes: What a careful reader would want to know of the image, or "".
    """

    id: str
    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]
    existence: float
    area_mm2: float | None
    box: Box | None
    notes: str = ""

    @functools.cached_property
    def pixels(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def positive(self) -> bool:
        """Whether a pneumothorax was found."""
        return self.pixels > 0


class Model:
    """A trained model, or several that answer together; `load_model` makes it.

    Attributes:
        folders: Where it was found.
        backend: The name of the backend.
        device: Where it computes.
        thresholds: What makes a mask of probabilities.
        thresholds_from: "tuned" (saved with the model), "default" (nothing was saved) or "given".
        height: Rows of the images that the network takes; any size is resized to it.
        width: Columns.
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
        self._predictor = Predictor(members, implementation, device, flip=decision.flip)
        self.height, self.width = self._predictor.height, self._predictor.width

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.folders))
        return f"<pneumoseg.Model {names} on {self.backend}, {self.device}; {self.height}x{self.width}>"

    def predict(self, source: Source) -> Prediction:
        """Answer for one radiograph.

        Args:
            source: A DICOM file, its bytes, a pydicom data set, an array (as for `Radiograph.from_array`) or
                a `Radiograph`.

        Raises:
            UnreadableImage: It cannot be read; the text says why.
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
        """Answer for many radiographs, some at a time; memory does not grow with their number.

        Args:
            sources: As for `predict`; `find_radiographs` gives those of a folder.
            batch_size: How many the network sees at a time.
            unreadable: Is called with the error of each that cannot be read, which then has no answer
                (`errors.append`, say). None raises the error.

        Yields:
            One answer for each that can be read, in their order.

        Raises:
            Error: A batch size below 1; or, while iterating, an image that cannot be read.
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
        images = np.stack([one.resized(self.height, self.width) for one in radiographs])
        with self._lock:
            found = self._predictor.predict(images[..., np.newaxis])
        return [
            self._concluded(one, probability)
            for one, probability in zip(radiographs, found[..., 0], strict=True)
        ]

    def _concluded(self, radiograph: Radiograph, probability: NDArray[np.float32]) -> Prediction:
        found = segment_image(probability, radiograph.height, radiograph.width, self.thresholds)
        return Prediction(
            id=radiograph.id,
            probability=found.probability,
            mask=found.mask,
            existence=found.existence,
            area_mm2=area_in_mm2(radiograph.geometry, int(np.count_nonzero(found.mask))),
            box=box_around(found.mask),
            notes=radiograph.notes,
        )

    def _evaluate(self, store: Store, split: SplitName, batch_size: int) -> Evaluation:
        def open_models(some: Sequence[Member]) -> tuple[BeginPrediction, str]:
            begin = open_here(some, self._implementation, self.device, flip=self._decision.flip)
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
    thresholds: Thresholds | None = None,
) -> Model:
    """Load a trained model.

    Args:
        folder: What training wrote, with any backend. Several are an ensemble, whose probability is the mean
            of theirs; a folder with `fold0/`, `fold1/`, … is the ensemble of those.
        backend: Which one computes; None is ONNX Runtime, or where that is not installed the first one that
            is.
        device: "auto", "cpu", "gpu" or "gpu:N".
        tta: Whether mirror images are predicted too (test-time augmentation). None is as the saved
            thresholds were searched.
        thresholds: What makes a mask of probabilities. None takes what was saved with the model.

    Raises:
        Error: There is no model, the backend is not installed, or there is no such device.
    """
    several = [folder] if isinstance(folder, str) or not isinstance(folder, Sequence) else list(folder)
    if not several:
        raise UserError("load_model needs a folder at least. Received: none")
    folders = [Path(one) for one in several]
    members = find_members(folders)
    changes = {} if thresholds is None else asdict(thresholds)
    decision = choose_settings(folders, changes, tta)
    descriptor, implementation = load_backend(backend or choose_predictor(members, device).name)
    chosen = choose_device(device, implementation.list_devices(), descriptor.title)
    return Model(folders, members, descriptor, implementation, chosen, decision)


def evaluate(
    model: Model, data: PathLike | DataFile, *, split: SplitName = "validation", batch_size: int = 16
) -> Evaluation:
    """Score a model on images of a data file, at their original size, as a submission is scored.

    Args:
        model: The model.
        data: The file, or an open one.
        split: "validation": the images that its training held out; "all": every image of the file.
        batch_size: Images at a time.

    Returns:
        `summary` has the scores (`summary.dice` beside `summary.dice_all_empty`, `summary.auroc`, …),
        `rows` one an image, `image_calibration` and `pixel_calibration` the calibration.

    Raises:
        Error: The images have another size, are not annotated, or are not those of the training.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1. Received: {batch_size}")
    if split not in ("validation", "all"):
        raise UserError(f"split: expected 'validation' or 'all'. Received: {split!r}")
    if isinstance(data, DataFile):
        return model._evaluate(data.store, split, batch_size)
    with Store.open(Path(data)) as store:
        return model._evaluate(store, split, batch_size)
