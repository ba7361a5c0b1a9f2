"""A checkpoint gives the same masks on every backend, except where a probability is near the threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import PREDICTORS

import backends.reference
from core.backend.process import BackendProcess
from core.backend.registry import find_backend
from core.backend.state import initial_state
from core.backend.training_rules import step_scalars
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, save_checkpoint
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.parity.synthetic_batches import SyntheticBatches
from core.prediction.predictor_process import RemotePredictor
from core.prediction.trained_models import find_members
from core.scoring.thresholds import Thresholds
from core.scoring.views import Views
from core.tasks.predictions import Segmentation, segment_image

HEIGHT, WIDTH = 40, 56
NEAR = 1e-4
"""Largest distance from a threshold at which the masks of backends may differ."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one ensemble, each trained for a few epochs on the reference."""
    configuration = load_configuration(Path("demo"), ["training.precision=float32"])
    plan, settings = lower(configuration.network, HEIGHT, WIDTH), configuration.training
    folders = []
    for seed in (1, 2):
        model = backends.reference.backend.load().compile(plan, settings.rules(), "cpu", "float32")
        model.load_state(initial_state(plan, settings.rules(), seed))
        batches, step = SyntheticBatches(HEIGHT, WIDTH, 4, seed), 0
        for epoch in range(6):
            for batch in batches.epoch(epoch):
                step += 1
                model.train_step(
                    batch.images, batch.masks, step_scalars(settings.rules().optimizer, step, 0.01, 0)
                )
        folders.append(tmp_path_factory.mktemp(f"model{seed}"))
        data = DataFacts(batches.images, batches.images // 2, HEIGHT, WIDTH)
        checkpoint = Checkpoint(configuration, data, Progress(step=step), model.state())
        save_checkpoint(folders[-1] / "best.safetensors", checkpoint)
    return folders


def answers(
    name: str, models: list[Path], images: NDArray[np.float32], thresholds: Thresholds
) -> list[Segmentation]:
    with BackendProcess(name) as process:
        title, members = find_backend(name).title, find_members(models)
        predictor = RemotePredictor(process, title, members, "cpu", views=Views(flip=True))
        first, second = (
            predictor.begin(images[:9]),
            predictor.begin(images[9:]),
        )  # the second one waits its turn
        found = np.concatenate([first().masks, second().masks])
    return [segment_image(one[..., 0], 131, 97, thresholds) for one in found]


def test_the_same_masks_on_every_backend(models: list[Path]) -> None:
    images = np.concatenate([batch.images for batch in SyntheticBatches(HEIGHT, WIDTH, 4, 7).epoch(0)])
    images = np.roll(images, 3, axis=1)
    thresholds = Thresholds(0.4, 500, 0.6)
    pixel, score = np.float32(thresholds.pixel), np.float32(thresholds.score)
    expected = answers("reference", models, images, thresholds)
    assert 2 < sum(bool(one.mask.any()) for one in expected) < len(expected)
    for name in PREDICTORS:
        sure = 0
        for ours, theirs in zip(expected, answers(name, models, images, thresholds), strict=True):
            np.testing.assert_allclose(theirs.probability, ours.probability, rtol=0, atol=NEAR / 2)
            if abs(ours.existence - score) <= NEAR:
                continue
            far = np.abs(ours.probability - pixel) > NEAR
            np.testing.assert_array_equal(theirs.mask[far], ours.mask[far])
            sure += int(far.sum())
        assert sure > 0.99 * len(expected) * ours.mask.size
