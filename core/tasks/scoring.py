"""Prediction and scoring of images of a data file, for `evaluate`, `tune` and the end of `train`.

While a batch is predicted, the batch before it is scored on all cores. Memory holds two batches, and of
scored images only what `core.scoring.scorer` keeps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Implementation
from core.base.byte_images import as_numbers
from core.pictures.radiographs import Sample
from core.prediction.predictor_process import BeginPrediction
from core.prediction.trained_models import Member, Prediction, Predictor
from core.scoring.scorer import Scorer, Tally, tally
from core.scoring.thresholds import Thresholds
from core.scoring.views import PLAIN, Views
from core.tasks.predictions import Segmentation, segment_image
from core.tasks.progress import Watcher
from core.tasks.validation_split import ScoringGroup
from data.batches.loader import Batch, Loader
from data.hdf5.store import Store
from data.radiographs.resize import resize_image, resize_mask

OpenModels = Callable[[Sequence[Member]], BeginPrediction]
"""Compiles some models and returns how they predict."""


def open_here(
    members: Sequence[Member], implementation: Implementation, device: str, *, views: Views = PLAIN
) -> BeginPrediction:
    """Compile models that predict in this process; the arguments are those of `Predictor`."""
    predictor = Predictor(members, implementation, device, views=views, resize=resize_image)

    def begin(images: NDArray[np.float32]) -> Callable[[], Prediction]:
        found = predictor.predict_with_existence(images)
        return lambda: found

    return begin


class ScoringResult(NamedTuple):
    """The scored images of some groups.

    Attributes:
        scorer: Scores of all images.
        images_per_second: Speed without the first batch of each group, which includes compilation.
    """

    scorer: Scorer
    images_per_second: float


def score(
    watcher: Watcher,
    store: Store,
    groups: Sequence[ScoringGroup],
    open_models: OpenModels,
    thresholds: Thresholds,
    batch_size: int,
    title: str = "scoring",
    also: frozenset[str] = frozenset(),
) -> ScoringResult:
    """Score the images of all groups; `also` is as for `Scorer`."""
    scorer, clock = Scorer(thresholds, also), _SpeedMeter()
    total = sum(len(group.indices) for group in groups)
    with watcher.images(title, total) as done, ThreadPoolExecutor() as pool:
        for group in groups:
            begin = open_models(group.members)
            clock.start()
            loader = Loader(store, group.indices, batch_size)
            for batch, predicted in _predicted(loader, begin):
                _score_batch(scorer, store, batch, predicted, pool)
                clock.count(len(batch.indices))
                done(len(batch.indices))
    return ScoringResult(scorer, clock.rate())


class _SpeedMeter:
    """Measures images per second, with and without the first batches."""

    def __init__(self) -> None:
        self._all = [0, 0.0]
        self._warm = [0, 0.0]
        self._first = True
        self._last = 0.0

    def start(self) -> None:
        self._first, self._last = True, time.perf_counter()

    def count(self, images: int) -> None:
        now = time.perf_counter()
        for total in [self._all] if self._first else [self._all, self._warm]:
            total[0] += images
            total[1] += now - self._last
        self._first, self._last = False, now

    def rate(self) -> float:
        images, seconds = self._warm if self._warm[0] else self._all
        return images / max(seconds, 1e-9)


def _predicted(loader: Loader, begin: BeginPrediction) -> Iterator[tuple[Batch, Prediction]]:
    """Yield batches with their probabilities; the next batch is predicted while the caller uses one."""
    waiting = None
    with contextlib.closing(loader.epoch(0)) as batches:
        for batch in batches:
            finish = begin(as_numbers(batch.images))
            if waiting is not None:
                yield waiting[0], waiting[1]()
            waiting = batch, finish
    if waiting is not None:
        yield waiting[0], waiting[1]()


class _ScoredImage(NamedTuple):
    segmentation: Segmentation
    tally: Tally


def _score_batch(
    scorer: Scorer,
    store: Store,
    batch: Batch,
    predicted: Prediction,
    pool: ThreadPoolExecutor,
) -> None:
    places = [int(index) for index in batch.indices]
    truths = [store.truth(place) for place in places]

    def examine(number: int) -> _ScoredImage:
        truth = truths[number]
        height, width = truth.shape
        probability, existence = predicted.masks[number, ..., 0], predicted.existence_of(number)
        found = segment_image(probability, height, width, scorer.thresholds, existence)
        name = store.ids[places[number]]
        return _ScoredImage(
            found, tally(name, found.probability, found.mask, found.existence, truth, existence)
        )

    for number, found in enumerate(pool.map(examine, range(len(places)))):
        for kind in scorer.add(places[number], found.tally):
            sample = Sample(
                image=batch.images[number, ..., 0].copy(),
                truth=batch.masks[number, ..., 0].copy(),
                probability=predicted.masks[number, ..., 0].copy(),
                dice=found.tally.row.dice,
            )
            scorer.keep_pictures(
                places[number], kind, sample, resize_mask(found.segmentation.mask, store.height, store.width)
            )
