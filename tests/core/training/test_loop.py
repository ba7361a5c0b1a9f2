"""The training loop with the reference backend: exact results, interruption, early stop, divergence."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import (
    HEIGHT,
    HELD_OUT,
    IMAGES,
    WIDTH,
    Scripted,
    Shuffled,
    Watcher,
    configured,
    prepared,
    scripted,
)

from backends.reference.model import ReferenceModel
from core.backend.contract import Array, DropoutMasks, State
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.state import initial_state
from core.backend.training_rules import StepScalars, step_scalars
from core.base.errors import UserError
from core.experiment.checkpoint import BEST, LAST, EpochRecord, load_checkpoint
from core.network.lowering import lower
from core.scoring.metrics import dice_per_image


def without_times(history: Sequence[EpochRecord]) -> list[EpochRecord]:
    return [replace(record, images_per_second=0.0) for record in history]


def test_a_run_does_what_a_loop_written_by_hand_does(tmp_path: Path) -> None:
    configuration = configured()
    trainer = prepared(tmp_path, configuration)
    outcome = trainer.run()
    plan, rules = trainer.plan, configuration.training.rules()
    model = ReferenceModel(plan, rules, "float32")
    model.load_state(initial_state(plan, rules, 0))
    data, held_out, step = Shuffled(IMAGES, 4, seed=1), Shuffled(HELD_OUT, 2, seed=2, shuffle=False), 0
    for epoch in (1, 2, 3):
        losses = []
        for batch in data.epoch(epoch):
            step += 1
            keep = draw_dropout_masks(plan, 0, step, len(batch.images))
            scalars = step_scalars(rules, step, 0.02)
            losses += [model.train_step(batch.images, batch.masks, scalars, keep)] * len(batch.images)
        record = outcome.progress.history[epoch - 1]
        assert (record.epoch, record.step) == (epoch, 3 * epoch)
        assert record.loss == pytest.approx(np.mean(losses), rel=1e-12)
        predicted = np.concatenate([model.predict(batch.images) for batch in held_out.epoch(0)])
        truth = [batch.masks for batch in held_out.epoch(0)]
        dice = dice_per_image(predicted >= 0.5, np.concatenate(truth))
        positive = np.concatenate(truth).any(axis=(1, 2, 3))
        assert record.dice == pytest.approx(dice.mean())
        assert record.dice_positive == pytest.approx(dice[positive].mean())
        assert record.dice_all_empty == pytest.approx(1 - positive.mean())
        highest = predicted.reshape(len(predicted), -1).max(axis=1)
        pairs = np.sign(np.subtract.outer(highest[positive], highest[~positive]))
        assert record.auroc == pytest.approx((pairs.mean() + 1) / 2)
        assert record.scored_on == "validation"
    assert outcome.reason == "finished"
    for name, array in model.state().items():
        np.testing.assert_array_equal(load_file(tmp_path / LAST)[name], array, err_msg=name)


class Noting(ReferenceModel):
    """The reference model, which records the scalars of every update."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scalars: list[StepScalars] = []

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        self.scalars.append(scalars)
        return super().train_step(images, masks, scalars, keep)


def test_every_step_has_the_rate_of_the_schedule(tmp_path: Path) -> None:
    configuration = configured("training.schedule={name: cosine, warmup_epochs: 1}")
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    model = Noting(plan, rules, "float32")
    outcome = prepared(tmp_path, configuration, model=model).run()
    falling = [0.01 * (1 + math.cos(math.pi * done / 6)) for done in range(6)]
    rates = [0.02 / 3, 0.04 / 3, 0.02, *falling]
    assert model.scalars == [step_scalars(rules, n, rate) for n, rate in enumerate(rates, 1)]
    recorded = [record.learning_rate for record in outcome.progress.history]
    assert recorded == pytest.approx([0.02, falling[2], falling[5]])


def test_the_memory_of_compiling_is_returned_once_after_the_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = configured()
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    model, updates = Noting(plan, rules, "float32"), list[int]()
    monkeypatch.setattr("core.training.team.return_freed_memory", lambda: updates.append(len(model.scalars)))
    prepared(tmp_path, configuration, model=model).run()
    assert updates == [1]
    assert len(model.scalars) > 1


def test_a_plateau_lowers_the_rate_of_the_next_epoch(tmp_path: Path) -> None:
    configuration = configured("training.epochs=6", "training.schedule={name: plateau, patience: 1}")
    model = scripted(configuration, validation=(5, 6, 4, 4, 3, 2))
    outcome = prepared(tmp_path, configuration, model=model).run()
    recorded = [record.learning_rate for record in outcome.progress.history]
    assert recorded == [0.02, 0.02, 0.01, 0.01, 0.005, 0.005]


@pytest.mark.parametrize(
    "override",
    [
        "training.dropout_masks=host",
        "training.dropout_masks=device",
        "training.schedule={name: cosine, warmup_epochs: 0.5}",
        "training.schedule={name: plateau, factor: 0.1, patience: 1}",
        "training.ema={decay: 0.7}",
    ],
)
def test_interrupted_anywhere_and_resumed_gives_the_same_bits(tmp_path: Path, override: str) -> None:
    # No epoch is better by a half than the first: a plateau.
    stop = ["training.early_stop={min_delta: 0.5, enabled: false}"] if "plateau" in override else []
    parts = ["training.freeze=[down]", "training.rates={mask: 0.5}"] if "ema" in override else []
    configuration = configured(override, *stop, *parts)
    whole = prepared(tmp_path / "whole", configuration).run()
    rates = {record.learning_rate for record in whole.progress.history}
    assert (len(rates) > 1) == ("schedule" in override)
    # 3 batches of training and 3 of scoring in each of 3 epochs, and one more question at each epoch's end.
    for after in range(22):
        folder = tmp_path / str(after)
        first = prepared(folder, configuration, watcher=Watcher(after)).run()
        if first.reason == "interrupted":
            assert first.progress.step < 9 or len(first.progress.history) < 3
        second = prepared(folder, configuration).run()
        assert second.reason == "finished"
        assert without_times(second.progress.history) == without_times(whole.progress.history)
        for name in (LAST, BEST):
            expected = load_file(tmp_path / "whole" / name)
            for array, values in load_file(folder / name).items():
                np.testing.assert_array_equal(values, expected[array], err_msg=f"{name} {array} {after}")


class Timed(Scripted):
    """Every call advances a clock that nothing else moves: updates by 1, 3, 9, ... s, scoring by 1000 s."""

    now = 100.0

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        self.now += 3.0**self.steps
        return super().train_step(images, masks, scalars, keep)

    def evaluate(self, images: Array, masks: Array) -> tuple[float, Array]:
        self.now += 1000.0
        return super().evaluate(images, masks)


@pytest.mark.parametrize("after", [None, *range(14)])
def test_the_speed_is_that_of_all_updates_of_the_epoch_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    """The time before an interruption counts; the time between two processes and scoring do not."""
    configuration = configured("training.epochs=2")
    plan = lower(configuration.network, HEIGHT, WIDTH)
    model = Timed(plan, configuration.training.rules(), "float32")
    monkeypatch.setattr(time, "perf_counter", lambda: model.now)
    outcome = prepared(tmp_path, configuration, model=model, watcher=Watcher(after)).run()
    assert outcome.reason == ("finished" if after is None else "interrupted")
    if after is not None:
        model.now -= 12_345.0  # another process has another clock
        outcome = prepared(tmp_path, configuration, model=model).run()
    speeds = [record.images_per_second for record in outcome.progress.history]
    assert speeds == pytest.approx([IMAGES / (1 + 3 + 9), IMAGES / (27 + 81 + 243)], rel=1e-9)
    written = json.loads((tmp_path / "history.json").read_text())
    assert [record["images_per_second"] for record in written] == speeds


def test_interrupted_at_every_batch_still_arrives(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole", configured()).run()
    for _ in range(100):
        if prepared(tmp_path / "parts", configured(), watcher=Watcher(1)).run().reason == "finished":
            break
        # A run that is always stopped in the scoring never ends; let every other one through.
        if prepared(tmp_path / "parts", configured(), watcher=Watcher(5)).run().reason == "finished":
            break
    parts = load_checkpoint(tmp_path / "parts" / LAST)
    assert without_times(parts.progress.history) == without_times(whole.progress.history)
    expected = load_file(tmp_path / "whole" / LAST)
    for name, array in parts.arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    assert all(record.images_per_second > 0 for record in parts.progress.history)


def test_the_folder_holds_what_the_run_gave(tmp_path: Path) -> None:
    trainer = prepared(tmp_path, configured())
    outcome = trainer.run()
    history = json.loads((tmp_path / "history.json").read_text())
    assert [EpochRecord(**record) for record in history] == list(outcome.progress.history)
    evaluation = trainer.finish()
    assert evaluation is not None
    best = min(outcome.progress.history, key=lambda record: record.validation_loss)
    assert evaluation.loss == pytest.approx(best.validation_loss)
    assert evaluation.scores.dice == best.dice
    assert {path.name for path in tmp_path.iterdir()} == {
        LAST, BEST, "history.json", "export", "predictions.png",
    }  # fmt: skip
    weights = np.load(tmp_path / "export" / "weights.npz")
    np.testing.assert_array_equal(weights["mask/kernel"], load_file(tmp_path / BEST)["mask/kernel"])


def test_observers_are_told_everything_in_order(tmp_path: Path) -> None:
    watcher = Watcher()
    prepared(tmp_path, configured("training.epochs=1"), watcher=watcher).run()
    assert watcher.events == [("epoch", 1, 0, 3), *["trained"] * 3, ("scoring", 3), *["scored"] * 3]


def test_without_held_out_images_the_training_ones_are_scored_and_it_says_so(tmp_path: Path) -> None:
    outcome = prepared(tmp_path, configured(), validation=False).run()
    assert {record.scored_on for record in outcome.progress.history} == {"training"}
    assert outcome.progress.history[0].dice_all_empty == pytest.approx(5 / 11)


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "epochs", "bests"),
    [
        ((5, 4, 3, 2, 1, 0), 2, 0.0, 6, [1, 2, 3, 4, 5, 6]),
        ((5, 4, 4, 4, 1, 0), 2, 0.0, 4, [1, 2]),
        ((5, 6, 4, 5, 3, 9), 2, 0.0, 6, [1, 3, 5]),
        ((5, 4.9, 4.8, 4.7, 4.6, 4.5), 3, 0.25, 6, [1, 4]),
        ((5, 4.9, 4.8, 4.7, 4.6, 4.5), 2, 0.25, 3, [1]),
        ((5, 6, 7, 8, 9, 10), 1, 0.0, 2, [1]),
    ],
)
def test_early_stop_counts_from_the_best_epoch(
    tmp_path: Path, losses: tuple[float, ...], patience: int, min_delta: float, epochs: int, bests: list[int]
) -> None:
    settings = [f"training.early_stop.patience={patience}", f"training.early_stop.min_delta={min_delta}"]
    configuration = configured("training.epochs=6", *settings)
    watcher = Watcher()
    outcome = prepared(
        tmp_path, configuration, watcher=watcher, model=scripted(configuration, validation=losses)
    ).run()
    assert len(outcome.progress.history) == epochs
    assert outcome.reason == ("finished" if epochs == 6 else "early stop")
    assert watcher.bests == bests
    assert len(load_checkpoint(tmp_path / BEST).progress.history) == bests[-1]
    # Resuming a run that has stopped trains nothing more.
    again = prepared(tmp_path, configuration).run()
    assert again.progress.step == outcome.progress.step


def test_early_stop_can_be_switched_off(tmp_path: Path) -> None:
    configuration = configured("training.early_stop.enabled=false", "training.early_stop.patience=1")
    model = scripted(configuration, validation=(1.0, 2.0, 3.0))
    assert prepared(tmp_path, configuration, model=model).run().reason == "finished"


@pytest.mark.parametrize("monitor", ["dice", "dice_positive"])
def test_a_monitored_dice_is_to_rise(tmp_path: Path, monitor: str) -> None:
    configuration = configured("training.epochs=12", f"training.early_stop.monitor={monitor}")
    watcher = Watcher()
    prepared(tmp_path, configuration, watcher=watcher).run()
    scores = [getattr(record, monitor) for record in watcher.records]
    assert scores[watcher.bests[-1] - 1] == max(scores)
    assert watcher.bests[0] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, where: str, bad: float
) -> None:
    configuration = configured()
    values = (1.0, 0.9, 0.8, 0.7, bad) if where == "training" else (1.0, bad)
    model = scripted(configuration, **{where: values + (1.0,) * 9})
    trainer = prepared(tmp_path, configuration, model=model)
    place = "in epoch 2, step 5" if where == "training" else "on the scored images"
    with pytest.raises(UserError, match=f"the loss is {bad} {place}") as caught:
        trainer.run()
    assert str(tmp_path / LAST) in (caught.value.hint or "")
    kept = load_checkpoint(tmp_path / LAST)
    assert kept.progress.step == 3
    assert all(np.isfinite(array).all() for array in kept.arrays.values())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1


class Overflowing(Scripted):
    """One array of its state is not finite from some update on, while the losses stay finite."""

    array, bad, from_step = "mask/bias", math.inf, 4

    def state(self) -> State:
        state = super().state()
        if self.steps >= self.from_step:
            state[self.array] = np.full_like(state[self.array], self.bad)
        return state


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("array", ["mask/bias", "optimizer/v/down/kernel"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_state_that_is_not_finite_is_never_written(
    tmp_path: Path, bad: float, array: str, interrupted: bool
) -> None:
    configuration = configured()
    model = Overflowing(
        lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules(), "float32"
    )
    assert array in model.state()
    model.array, model.bad = array, bad
    watcher = Watcher(8 if interrupted else None)  # the questions of the first epoch, and one of the second
    trainer = prepared(tmp_path, configuration, model=model, watcher=watcher)
    with pytest.raises(UserError, match=f"training diverged: {array} is no longer finite") as caught:
        trainer.run()
    assert model.steps == (5 if interrupted else 6)
    assert str(tmp_path / LAST) in (caught.value.hint or "")
    for name in (LAST, BEST):
        kept = load_checkpoint(tmp_path / name)
        assert kept.progress.step == 3
        assert all(np.isfinite(values).all() for values in kept.arrays.values())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1


def test_diverging_in_the_first_epoch_writes_nothing(tmp_path: Path) -> None:
    configuration = configured()
    trainer = prepared(tmp_path, configuration, model=scripted(configuration, training=(math.nan,) * 9))
    with pytest.raises(UserError, match="No checkpoint was written"):
        trainer.run()
    assert list(tmp_path.iterdir()) == []


def test_skipped_updates_are_counted_and_do_not_end_the_run(tmp_path: Path) -> None:
    """The scale of 2**24 is too large, and 2**18 is not; an interrupted run finds its place in both."""
    configuration = configured(
        "training.precision=mixed_float16",
        "training.loss_scale={initial: 16777216, factor: 4, growth_interval: 4}",
    )
    whole = prepared(tmp_path / "whole", configuration).run().progress.history
    outcome = prepared(tmp_path / "parts", configuration, watcher=Watcher(2)).run()
    assert outcome.reason == "interrupted"
    parts = prepared(tmp_path / "parts", configuration).run().progress.history
    assert without_times(parts) == without_times(whole)
    states = [load_file(tmp_path / folder / LAST) for folder in ("whole", "parts")]
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array, err_msg=name)
    assert whole[0].skipped_steps
    assert sum(record.skipped_steps or 0 for record in whole) == states[0]["loss_scale/skipped_steps"][0]
    assert whole[-1].loss_scale == states[0]["loss_scale/scale"][0] < 2.0**24
    records = json.loads((tmp_path / "whole" / "history.json").read_text())
    assert [record["loss_scale"] for record in records] == [record.loss_scale for record in whole]


def test_an_epoch_without_an_update_at_a_fixed_scale_ends_the_run(tmp_path: Path) -> None:
    configuration = configured("training.precision=mixed_float16", "training.loss_scale=16777216")
    with pytest.raises(UserError, match="updates of epoch 1 were skipped") as caught:
        prepared(tmp_path, configuration).run()
    assert "training.loss_scale" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_in_float16_a_loss_that_is_not_finite_names_its_range(tmp_path: Path) -> None:
    configuration = configured("training.precision=mixed_float16")
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    model = ReferenceModel(plan, rules, "mixed_float16")
    trainer = prepared(tmp_path, configuration, model=model)
    model.load_state({**model.state(), "down/kernel": np.full((3, 3, 1, 3), 1e6, np.float32)})
    with pytest.raises(UserError, match="training diverged") as caught:
        trainer.run()
    assert "65504" in (caught.value.hint or "")
