"""Loss, scores and samples of a scored set of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_runs import Shuffled, configured, prepared, validated

from core.scoring.metrics import dice_per_image


def test_an_evaluation_weighs_every_image_alike(tmp_path: Path) -> None:
    trainer = prepared(tmp_path, configured())
    batches = list(Shuffled(5, 2, seed=2, shuffle=False).epoch(0))
    scored = [trainer.model.evaluate(batch.images, batch.masks) for batch in batches]
    evaluation = validated(trainer.model, Shuffled(5, 2, seed=2, shuffle=False))
    losses = [float(loss) for loss, _ in scored]
    assert evaluation.loss == pytest.approx((2 * losses[0] + 2 * losses[1] + losses[2]) / 5)
    masks = np.concatenate([batch.masks for batch in batches])
    found = np.concatenate([probabilities for _, probabilities in scored]) >= 0.5
    assert evaluation.scores.dice == pytest.approx(dice_per_image(found, masks).mean())
    assert [bool(sample.truth.any()) for sample in evaluation.samples] == [True, True, True, False, False]
    np.testing.assert_array_equal(evaluation.samples[1].truth, masks[2, ..., 0])


def test_the_first_four_positives_and_two_negatives_are_kept_to_be_drawn(tmp_path: Path) -> None:
    batches = Shuffled(21, 4, seed=3, shuffle=False)
    model = prepared(tmp_path, configured()).model
    images = np.concatenate([batch.images for batch in batches.epoch(0)])
    masks = np.concatenate([batch.masks for batch in batches.epoch(0)])
    samples = validated(model, batches).samples
    for sample, place in zip(samples, (0, 2, 4, 6, 1, 3), strict=True):
        np.testing.assert_array_equal(sample.image, images[place, ..., 0])
        np.testing.assert_array_equal(sample.truth, masks[place, ..., 0])
        probability = model.predict(images[place][np.newaxis])
        np.testing.assert_allclose(sample.probability, probability[0, ..., 0], rtol=1e-5)
        found = dice_per_image(probability >= 0.5, masks[place][np.newaxis])
        assert sample.dice == pytest.approx(found[0])
