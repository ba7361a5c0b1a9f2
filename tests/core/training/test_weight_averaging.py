"""Averages of the best epochs: their content, when they are used, and interruptions at every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    validated,
)

from backends.reference.model import ReferenceModel
from core.backend.contract import State
from core.experiment.checkpoint import AVERAGED, BEST, LAST, EpochRecord, load_checkpoint, save_checkpoint
from core.experiment.configuration import Configuration, parse_configuration
from core.network.lowering import lower
from core.pictures.radiographs import Sample
from core.training import loop, weight_averaging
from core.training.loop import Trainer
from core.training.weight_averaging import AVERAGING_FOLDER, KeptEpochs, WeightAverage

AVERAGING = "training.average_best=3"


class Keeper(Watcher):
    """Observer that records the state and the files of every epoch, and the reported averages."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        super().__init__(interrupt_after)
        self.states: list[State] = []
        self.files: list[list[int]] = []
        self.averages: list[WeightAverage] = []
        self.trainer: Trainer | None = None

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        super().epoch_ended(record, best, samples)
        assert self.trainer is not None
        self.states.append(self.trainer.model.state())
        self.files.append(kept(self.trainer.folder))

    def averaged(self, average: WeightAverage) -> None:
        self.averages.append(average)


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in (folder / AVERAGING_FOLDER).glob("*"))


def trained(
    folder: Path, configuration: Configuration, model: ReferenceModel | None = None, after: int | None = None
) -> tuple[Trainer, Keeper]:
    """Run a trainer, and finish it unless it was interrupted."""
    keeper = Keeper(after)
    trainer = keeper.trainer = prepared(folder, configuration, watcher=keeper, model=model)
    if trainer.run().reason != "interrupted":
        keeper._left = None
        trainer.finish()
    return trainer, keeper


def without_moments(state: State) -> State:
    return {
        name: array for name, array in state.items() if not name.startswith(("optimizer/", "loss_scale/"))
    }


SCRIPT = (5.0, 3.0, 4.0, 1.0, 6.0, 2.0)  # best: 4, 6, 2


@pytest.mark.parametrize(("average", "used"), [(0.5, True), (1.0, False), (1.5, False)])
def test_the_best_epochs_are_averaged_and_used_if_that_is_better(
    tmp_path: Path, average: float, used: bool
) -> None:
    configuration = configured("training.epochs=6", AVERAGING)
    model = scripted(configuration, validation=(*SCRIPT, average, 9.0, 9.0))
    _, keeper = trained(tmp_path, configuration, model)
    assert keeper.files == [[1], [1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4], [2, 4, 6]]
    (said,) = keeper.averages
    assert (said.epochs, said.score, said.to_beat, said.is_better) == ((2, 4, 6), average, 1.0, used)
    assert not (tmp_path / AVERAGING_FOLDER).exists()
    assert (tmp_path / AVERAGED).exists() == used
    expected = load_file(tmp_path / BEST)
    if used:
        mean = {
            name: np.mean([keeper.states[epoch - 1][name] for epoch in (2, 4, 6)], axis=0, dtype=np.float64)
            for name in without_moments(keeper.states[0])
        }
        expected = load_file(tmp_path / AVERAGED)
        for name, array in mean.items():
            np.testing.assert_array_equal(expected[name], array.astype(np.float32), err_msg=name)
        assert all(not array.any() for name, array in expected.items() if name.startswith("optimizer/"))
        assert len(load_checkpoint(tmp_path / AVERAGED).progress.history) == 6
    weights = np.load(tmp_path / "export" / "weights.npz")
    np.testing.assert_array_equal(weights["mask/kernel"], expected["mask/kernel"])


@pytest.mark.parametrize(
    ("losses", "count", "expected"),
    [
        ((5.0, 3.0, 3.0, 3.0, 9.0), 2, (2, 3)),
        ((3.0, 3.0, 3.0, 3.0, 3.0), 3, (1, 2, 3)),
        ((9.0, 3.0, 1.0, *[9.0] * 5, 3.0), 2, (2, 3)),
        ((9.0, 9.0, 3.0, 1.0, *[9.0] * 13, 3.0, 3.0), 2, (3, 4)),
        ((4.0, 3.0, 4.0, 3.0, 2.0), 4, (1, 2, 4, 5)),
    ],
)
def test_of_epochs_that_score_alike_the_earlier_are_averaged(
    tmp_path: Path, losses: tuple[float, ...], count: int, expected: tuple[int, ...]
) -> None:
    configuration = configured(
        f"training.epochs={len(losses)}",
        f"training.average_best={count}",
        "training.early_stop.enabled=false",
    )
    model = scripted(configuration, validation=(*losses, 9.0, 9.0, 9.0))
    _, keeper = trained(tmp_path, configuration, model)
    (said,) = keeper.averages
    assert said.epochs == expected


def test_of_two_averages_that_score_alike_the_plain_one_is_used(tmp_path: Path) -> None:
    configuration = normalised()
    model = scripted(configuration, validation=(5, 3, 4, 2, 0.9, 0.9, 9.0))
    _, keeper = trained(tmp_path, configuration, model)
    assert [(said.recomputed_statistics, said.score) for said in keeper.averages] == [(False, 0.9)]


def test_a_dice_that_is_monitored_is_to_rise(tmp_path: Path) -> None:
    configuration = configured("training.epochs=8", AVERAGING, "training.early_stop.monitor=dice")
    trainer, keeper = trained(tmp_path, configuration)
    (said,) = keeper.averages
    ranked = sorted(trainer.progress.history, key=lambda record: (-record.dice, record.epoch))
    assert said.epochs == tuple(sorted(record.epoch for record in ranked[:3]))
    assert said.to_beat == -ranked[0].dice
    assert said.is_better == (-said.score > ranked[0].dice)


@pytest.mark.parametrize("count", [0, 1])
def test_without_it_nothing_is_kept(tmp_path: Path, count: int) -> None:
    _, keeper = trained(tmp_path, configured(f"training.average_best={count}"))
    assert keeper.files == [[], [], []]
    assert not keeper.averages
    assert not (tmp_path / AVERAGED).exists()


def normalised(*overrides: str) -> Configuration:
    """A 1x1 convolution with batch norm, whose statistics are easy to compute by hand, then another one."""
    blocks = [
        {"name": "point", "kind": "conv", "kernel": 1, "stride": 1, "filters": 3},
        {"name": "down", "kind": "conv", "filters": 4},
        {"name": "mask", "kind": "output"},
    ]
    network = {"blocks": blocks, "batch_norm": True, "batch_norm_settings": {"momentum": 0.9}}
    content: dict[str, Any] = {
        "network": network,
        "training": {"epochs": 4, "batch_size": 4, "seed": 1, "optimizer": {"learning_rate": 0.02}},
    }
    return parse_configuration(content, [AVERAGING, *overrides])


@pytest.mark.parametrize("overflows", [False, True])
def test_statistics_taken_anew_are_those_of_the_batches(tmp_path: Path, overflows: bool) -> None:
    """With a loss scale so large that training skips updates, this moves the statistics all the same."""
    scale = [
        "training.precision=mixed_float16",
        "training.loss_scale={initial: 16777216, growth_interval: 1}",
    ]
    configuration = normalised(*(scale if overflows else []))
    model = scripted(configuration, validation=(5, 3, 4, 2, 0.9, 0.8, 9.0))
    _, keeper = trained(tmp_path, configuration, model)
    (said,) = keeper.averages
    assert (said.recomputed_statistics, said.score) == (True, 0.8)
    averaged = load_file(tmp_path / AVERAGED)
    names = without_moments(keeper.states[0])
    mean = {
        name: np.mean([keeper.states[epoch - 1][name] for epoch in (2, 3, 4)], axis=0, dtype=np.float64)
        for name in names
    }
    for name in names:
        if "/moving_" not in name:
            np.testing.assert_array_equal(averaged[name], mean[name].astype(np.float32), err_msg=name)
    # The first block by hand: 11 images in batches of 4, 4 and 3.
    kernel, bias = averaged["point/kernel"][0, 0, 0], averaged["point/bias"]
    means, variances = [], []
    for batch in Shuffled(IMAGES, 4, seed=1).epoch(5):
        seen = np.maximum(batch.images.astype(np.float64) * kernel + bias, 0)
        means += [seen.mean(axis=(0, 1, 2))] * len(seen)
        variances += [seen.var(axis=(0, 1, 2))] * len(seen)
    far = 3e-3 if overflows else 1e-5
    np.testing.assert_allclose(averaged["point/moving_mean"], np.mean(means, axis=0), rtol=far)
    np.testing.assert_allclose(averaged["point/moving_variance"], np.mean(variances, axis=0), rtol=far)
    assert not overflows or load_file(tmp_path / LAST)["loss_scale/skipped_steps"] > 0
    assert np.abs(averaged["point/moving_mean"] - mean["point/moving_mean"]).max() > 1e-3


def test_statistics_taken_anew_are_not_used_where_they_are_worse(tmp_path: Path) -> None:
    configuration = normalised()
    model = scripted(configuration, validation=(5, 3, 4, 2, 0.9, 1.0, 9.0))
    _, keeper = trained(tmp_path, configuration, model)
    assert [(said.recomputed_statistics, said.score) for said in keeper.averages] == [(False, 0.9)]


def test_a_score_that_is_no_number_is_not_the_better_one(tmp_path: Path) -> None:
    configuration = normalised()
    model = scripted(configuration, validation=(5, 3, 4, 2, np.nan, 1.0, 9.0))
    _, keeper = trained(tmp_path, configuration, model)
    assert [(said.recomputed_statistics, said.score) for said in keeper.averages] == [(True, 1.0)]


def test_what_is_drawn_is_what_the_average_predicts(tmp_path: Path) -> None:
    configuration = configured("training.epochs=6", AVERAGING)
    model = scripted(configuration, validation=(*SCRIPT, 0.5, *[9.0] * 9))
    trainer, _ = trained(tmp_path, configuration, model)
    evaluation = trainer.finish()
    assert evaluation is not None
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    again = ReferenceModel(plan, rules, "float32")
    again.load_state(load_checkpoint(tmp_path / AVERAGED).arrays)
    expected = validated(again, Shuffled(HELD_OUT, 2, seed=2, shuffle=False))
    for found, wanted in zip(evaluation.samples, expected.samples, strict=True):
        np.testing.assert_array_equal(found.probability, wanted.probability)


def assert_same_folder(one: Path, other: Path) -> None:
    assert kept(one) == kept(other)
    for name in (LAST, BEST, AVERAGED):
        assert (one / name).exists() == (other / name).exists(), name
        if (one / name).exists():
            first, second = load_file(one / name), load_file(other / name)
            for array, values in first.items():
                np.testing.assert_array_equal(values, second[array], err_msg=f"{name} {array}")


def test_interrupted_anywhere_it_ends_with_the_same_average(tmp_path: Path) -> None:
    trained(tmp_path / "whole", normalised())
    assert (tmp_path / "whole" / AVERAGED).exists()
    for after in range(0, 28, 3):
        folder = tmp_path / str(after)
        trained(folder, normalised(), after=after)
        trained(folder, normalised())
        assert_same_folder(folder, tmp_path / "whole")


class KilledError(Exception):
    """Raised in place of a step that a killed process does not reach."""


def test_killed_before_any_file_it_ends_with_the_same_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "whole", normalised())
    moments = 0

    def killing(how: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError
            how(*arguments)

        return wrapped

    for moment in range(1, 99):
        left, folder = moment, tmp_path / str(moment)
        with monkeypatch.context() as patched:
            for module in (weight_averaging, loop):
                patched.setattr(module, "save_checkpoint", killing(save_checkpoint))
            patched.setattr(KeptEpochs, "clear", killing(KeptEpochs.clear))
            try:
                trained(folder, normalised())
            except KilledError:
                moments += 1
            else:
                break
        trained(folder, normalised())
        assert_same_folder(folder, tmp_path / "whole")
    assert moments >= 4 + 3 + 4 + 1 + 1  # kept, best, newest, the average, and then the kept ones go


def test_finished_again_it_stays_what_it_is(tmp_path: Path) -> None:
    trained(tmp_path, normalised())
    before = (tmp_path / AVERAGED).read_bytes()
    _, keeper = trained(tmp_path, normalised())
    assert not keeper.averages
    assert (tmp_path / AVERAGED).read_bytes() == before


def test_continued_for_longer_an_average_goes_only_for_a_better_one(tmp_path: Path) -> None:
    """Six epochs, an average of 0.5; two more epochs, neither a new best, and an average of 0.7, then 0.2."""
    configuration = configured("training.epochs=6", AVERAGING)
    trained(tmp_path, configuration, scripted(configuration, validation=(*SCRIPT, 0.5, 9.0, 9.0)))
    before = load_file(tmp_path / AVERAGED)
    for epochs, script, better in (
        (8, (2.5, 2.6, 0.5, 0.7, 9.0, 9.0), False),
        (10, (2.4, 2.3, 0.5, 0.2, 9.0, 9.0), True),
    ):
        configuration = configured(f"training.epochs={epochs}", AVERAGING)
        model: Scripted = scripted(configuration, validation=script)
        _, keeper = trained(tmp_path, configuration, model)
        (said,) = keeper.averages
        assert (said.epochs, said.to_beat, said.is_better) == ((epochs - 1, epochs), 0.5, better)
        same = all(
            np.array_equal(array, before[name]) for name, array in load_file(tmp_path / AVERAGED).items()
        )
        assert same == (not better)


def test_a_new_best_epoch_drives_an_old_average_out(tmp_path: Path) -> None:
    configuration = configured("training.epochs=6", AVERAGING)
    trained(tmp_path, configuration, scripted(configuration, validation=(*SCRIPT, 0.5, 9.0, 9.0)))
    configuration = configured("training.epochs=7", AVERAGING)
    trained(tmp_path, configuration, scripted(configuration, validation=(0.4, 9.0, 9.0, 9.0)))
    assert not (tmp_path / AVERAGED).exists()
