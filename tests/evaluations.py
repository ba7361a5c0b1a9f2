"""Records of evaluations made without a network, for the tests of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from core.experiment.checkpoint import EpochRecord
from core.pictures.radiographs import Sample
from core.scoring.evaluation_record import Evaluation, MemberRecord, Origin
from core.scoring.scorer import Scorer, tally
from core.scoring.thresholds import Thresholds

HEIGHT, WIDTH = 45, 37
THRESHOLDS = Thresholds(0.4, 6000, 0.55)


def history(epochs: int, seed: int) -> tuple[EpochRecord, ...]:
    """Return the history of a run that overfits at its end."""
    random = np.random.default_rng(seed)
    return tuple(
        EpochRecord(
            epoch=epoch,
            loss=math.exp(-epoch / 4) + 0.1 * random.random(),
            validation_loss=math.exp(-epoch / 4) + 0.02 * epoch,
            dice=0.8 - 0.5 / epoch,
            dice_all_empty=0.7,
            dice_positive=None if epoch == 1 else 0.7 - 0.7 / epoch,
            learning_rate=1e-3 / epoch**2,
            images_per_second=20.0,
            scored_on="validation",
            step=10 * epoch,
            auroc=None if epoch == 1 else 0.9 - 0.4 / epoch,
        )
        for epoch in range(1, epochs + 1)
    )


def evaluation(
    seed: int = 0,
    *,
    backend: str = "tf",
    folders: Sequence[str] = ("tf_model",),
    count: int = 60,
    share: float = 0.4,
    ids: Sequence[str] = (),
    epochs: int = 9,
    also: frozenset[str] = frozenset(),
) -> Evaluation:
    """Return the evaluation of a model on `count` images of 45x37, a `share` of which is positive.

    The images depend only on their number, the predictions also on the seed. There are false negatives and
    false positives. The first ids are `ids`, the others "image-<number>".
    """
    scorer = Scorer(THRESHOLDS, also)
    names = [*ids, *(f"image-{number}" for number in range(len(ids), count))]
    for number, name in enumerate(names):
        fixed, random = np.random.default_rng(number), np.random.default_rng([seed, number])
        image = fixed.uniform(0.1, 0.6, (HEIGHT, WIDTH)).astype(np.float32)
        truth = np.zeros(image.shape, np.uint8)
        if number % 10 < 10 * share:
            top, left = fixed.integers(3, 18, 2)
            truth[top : top + 5 + number % 13, left : left + 11] = 1
        found = np.roll(truth, tuple(random.integers(-3, 4, 2)), axis=(0, 1))
        if random.random() < 0.2:
            found = np.zeros_like(truth)
            found[30:40, 20:31] = number % 2
        probability = (0.3 * random.random(image.shape) + 0.65 * found).astype(np.float32)
        mask, existence = THRESHOLDS.mask(probability), THRESHOLDS.existence_score(probability)
        counted = tally(name, probability, mask, existence, truth)
        for kind in scorer.add(number, counted):
            scorer.keep_pictures(number, kind, Sample(image, truth, probability, counted.row.dice), mask)
    origin = Origin(
        backend=backend,
        framework=backend.upper(),
        version="1.2.3",
        device="cpu",
        members=tuple(
            MemberRecord(folder, "best.safetensors", max(epochs - 2, 1), 70, history(epochs, seed))
            for folder in folders
        ),
        data="held/out.h5",
        split="validation",
        flip=False,
        thresholds="tuned",
        height=HEIGHT,
        width=WIDTH,
        images_per_second=12.5,
    )
    views = {"view": [("PA", "AP", "")[number % 3] for number in range(count)]}
    return scorer.evaluation(origin, views)
