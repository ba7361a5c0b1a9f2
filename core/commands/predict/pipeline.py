"""The stages of `predict`: read an image, run the network, write the image's files.

Other processes read and finish images; the network runs in this one. If MPI has started several workers, the
processes of all of them do all three. Each stage is a few images ahead of the next, so memory does not grow
with the number of images.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.commands.predict.results import (
    ImageResult,
    OutputSettings,
    PredictedImage,
    make_result,
    result_of_crash,
    set_output_settings,
)
from core.files.checks import is_folder
from core.files.names import FileNames, file_name
from core.files.system_errors import explain_os_errors
from core.prediction.trained_models import Prediction
from core.processes.pool import MapInOrder
from data.annotations import rle
from data.hdf5.probability_maps import ProbabilityFile
from data.radiographs.clahe import Clahe
from data.radiographs.reading import ImageFile, Reading, read_all

Predict: TypeAlias = Callable[[Iterator[NDArray[np.float32]]], Generator[Prediction, None, None]]
"""Predicts batches of (n, h, w, 1) images, in their order."""


@dataclass
class FileOutcomes:
    """The outcome of every file.

    Attributes:
        results: The results of the predicted images.
        unreadable: Files that could not be read; each has a row in the submission.
        duplicates: Files whose image id came before.
        not_listed: Folders that could not be listed.
        renamed: Images whose output files have another name than their id, with that name.
        seconds: The time of all stages together.
    """

    results: list[ImageResult] = field(default_factory=list)
    unreadable: list[ImageFile] = field(default_factory=list)
    duplicates: list[ImageFile] = field(default_factory=list)
    not_listed: list[ImageFile] = field(default_factory=list)
    renamed: list[tuple[ImageFile, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def positives(self) -> int:
        """The number of images with a finding."""
        return sum(result.positive for result in self.results)


class MapsOutput(NamedTuple):
    """An open file for probability maps, and the path that messages name."""

    file: ProbabilityFile
    path: Path


@dataclass(frozen=True)
class PredictionPipeline:
    """Reads, predicts and finishes every image.

    Args:
        folder: The folder of the images.
        files: The files in it.
        size: Height and width of the network's images.
        clahe: How the network's images are equalised; None if they are not.
        predict: Runs the network.
        batch_size: The number of images that the network takes at a time.
        workers: The number of processes that read, and of those that finish images.
        mapping: Reads and finishes images as `core.processes.pool.map_in_order` does.
        settings: The thresholds, and which files each image gets.
        maps: The file for the probability maps, or None.
        outcomes: Is filled with the outcome of every file.
        advance: Is called once for each file that is done.
    """

    folder: Path
    files: Sequence[Path]
    size: tuple[int, int]
    clahe: Clahe | None
    predict: Predict
    batch_size: int
    workers: int
    mapping: MapInOrder
    settings: OutputSettings
    maps: MapsOutput | None
    outcomes: FileOutcomes
    advance: Callable[[], None]

    def rows(self) -> Generator[tuple[str, str], None, None]:
        """Yield image id and run-length encoding of every image: the predicted ones, then the unreadable."""
        outcomes, started = self.outcomes, time.perf_counter()
        results = self.mapping(
            make_result,
            self._predicted_images(),
            workers=self.workers,
            on_crash=functools.partial(result_of_crash, settings=self.settings),
            prepare=set_output_settings,
            arguments=(self.settings,),
        )
        with contextlib.closing(results):
            for result in results:
                self.advance()
                if result.failure:
                    outcomes.unreadable.append(replace(result.source, reason=result.failure))
                else:
                    outcomes.results.append(result)
                    yield result.source.image_id, result.encoding
        outcomes.seconds = time.perf_counter() - started
        done = {result.source.image_id for result in outcomes.results}
        for source in list(outcomes.unreadable):
            if source.image_id in done:  # a copy was read, or another unreadable file has the same id
                outcomes.unreadable.remove(source)
                outcomes.duplicates.append(source)
            else:
                done.add(source.image_id)
                yield source.image_id, rle.EMPTY

    def _predicted_images(self) -> Iterator[PredictedImage]:
        """Yield every readable image once, with its probabilities."""
        names, in_progress = FileNames(), deque[list[ImageFile]]()

        def images() -> Iterator[NDArray[np.float32]]:
            for batch in self._batches():
                in_progress.append([reading.source for reading in batch])
                stacked = np.stack([reading.image for reading in batch if reading.image is not None])
                yield stacked[..., np.newaxis]

        with contextlib.closing(self.predict(images())) as predictions:
            for found in predictions:
                yield from self._predicted(in_progress.popleft(), found, names)

    def _batches(self) -> Iterator[list[Reading]]:
        """Yield every readable image once, in batches."""
        outcomes, seen, batch = self.outcomes, set[str](), list[Reading]()
        readings = read_all(
            self.folder,
            self.files,
            *self.size,
            clahe=self.clahe,
            workers=self.workers,
            mapping=self.mapping,
        )
        with contextlib.closing(readings):
            for reading in readings:
                source = reading.source
                if reading.image is None:
                    group = outcomes.not_listed if is_folder(source.file) else outcomes.unreadable
                elif source.image_id in seen:
                    group = outcomes.duplicates
                else:
                    seen.add(source.image_id)
                    batch.append(reading)
                    if len(batch) == self.batch_size:
                        yield batch
                        batch = []
                    continue
                group.append(source)
                self.advance()
        if batch:
            yield batch

    def _predicted(
        self, sources: Sequence[ImageFile], found: Prediction, names: FileNames
    ) -> Iterator[PredictedImage]:
        for number, source in enumerate(sources):
            probability, existence = found.masks[number, ..., 0], found.existence_of(number)
            if self.maps is not None:
                with explain_os_errors(self.maps.path, "write"):
                    size = source.height, source.width
                    self.maps.file.add(source.image_id, size, probability, existence)
            name = names.take(source.image_id)
            if name != file_name(source.image_id):
                self.outcomes.renamed.append((source, name))
            yield PredictedImage(source, probability, name, existence)
