"""A run with a moving average scores, keeps, exports and predicts it, as a loop by hand computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_runs import HEIGHT, HELD_OUT, IMAGES, WIDTH, Shuffled, configured, prepared, validated

from backends.reference.model import ReferenceModel
from core.backend.contract import State
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.registry import load_backend
from core.backend.state import initial_state
from core.backend.trained_part import trained_part
from core.backend.training_rules import step_scalars
from core.experiment.checkpoint import BEST
from core.network.lowering import lower
from core.prediction.trained_models import Predictor, find_members
from core.training.weight_averaging import recompute_statistics
from core.weights.start_files import load_start


def test_everything_but_the_next_update_uses_the_average(tmp_path: Path) -> None:
    configuration = configured("training.ema.decay=0.6", "training.epochs=2")
    trainer = prepared(tmp_path, configuration)
    history = trainer.run().progress.history
    trainer.finish()

    rules, plan = configured("training.epochs=2").training.rules(), trainer.plan
    model, judge = ReferenceModel(plan, rules, "float32"), ReferenceModel(plan, rules, "float64")
    state: State = dict(initial_state(plan, rules, 0))
    model.load_state(state)
    average = {array.name: state[array.name].astype(float) for array in plan.arrays}
    data, held_out, step = Shuffled(IMAGES, 4, seed=1), Shuffled(HELD_OUT, 2, seed=2, shuffle=False), 0
    kept: list[State] = []
    for record in history:
        for batch in data.epoch(record.epoch):
            step += 1
            keep = draw_dropout_masks(plan, 0, step, len(batch.images))
            model.train_step(batch.images, batch.masks, step_scalars(rules, step, 0.02), keep)
            decay = min(0.6, (1 + step) / (10 + step))
            after = model.state()
            for name, array in average.items():
                average[name] = decay * array + (1 - decay) * after[name]
        kept.append({**after, **average})
        judge.load_state(kept[-1])
        assert record.validation_loss == pytest.approx(validated(judge, held_out).loss, rel=1e-5)
        judge.load_state(after)
        assert record.validation_loss != pytest.approx(validated(judge, held_out).loss, rel=1e-3)

    best = min(history, key=lambda record: record.validation_loss).epoch
    images = np.random.default_rng(8).random((2, HEIGHT, WIDTH, 1), dtype=np.float32)
    judge.load_state(kept[best - 1])
    predictor = Predictor(find_members([tmp_path]), load_backend("reference")[1], "cpu")
    np.testing.assert_allclose(predictor.predict(images), judge.predict(images), rtol=1e-5)
    exported = np.load(tmp_path / "export" / "weights.npz")
    started = load_start(tmp_path / BEST, plan).arrays
    for name in average:
        np.testing.assert_allclose(exported[name], kept[best - 1][name], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(started[name], exported[name])


def test_recomputed_statistics_are_not_those_of_frozen_blocks() -> None:
    configuration = configured("training.freeze=[down]")
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    model, batch = ReferenceModel(plan, rules, "float32"), next(Shuffled(IMAGES, 4, seed=1).epoch(1))
    state: State = dict(initial_state(plan, rules, 0))
    state["down/moving_mean"][...] = 0.25

    def update() -> int:
        model.train_step(batch.images, batch.masks, step_scalars(rules, 1, 0.0))
        return len(batch.images)

    found = recompute_statistics(model, trained_part(plan, rules), state, [update])
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
