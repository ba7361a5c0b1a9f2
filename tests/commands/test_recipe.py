"""The training recipe: from the configuration to batches, and through interruptions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_same_run, history, refused, run_here, train

from backends.reference.model import ReferenceModel
from core.commands.train import training
from core.experiment import recipe
from core.experiment.checkpoint import load_checkpoint
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.tasks.training import StopRequest
from core.tasks.training_batches import training_batches
from data.batches.augmentation import AugmentationSettings
from data.batches.crops import CropSettings
from data.batches.loader import Loader
from data.batches.sampling import SamplingSchedule
from data.batches.splits import split_store
from data.hdf5.store import Store

MODEL = "reference_model"


def test_the_settings_are_those_of_the_data() -> None:
    """`data` has its own classes, since it does not import the configuration; fields and defaults agree."""
    assert recipe.AugmentationSettings().model_dump() == dataclasses.asdict(AugmentationSettings())
    assert list(recipe.AugmentationSettings.model_fields) == [
        field.name for field in dataclasses.fields(AugmentationSettings)
    ]
    assert list(recipe.CropSettings.model_fields) == [
        field.name for field in dataclasses.fields(CropSettings)
    ]
    assert recipe.SamplingSettings.model_fields.keys() == {
        field.name for field in dataclasses.fields(SamplingSchedule)
    }


@pytest.mark.parametrize(
    ("written", "sampling"),
    [
        ("{positives: 0.6}", SamplingSchedule(0.6, 0.6, 2)),
        ("{positives: 0.6, final: 0.0}", SamplingSchedule(0.6, 0.0, 2)),
        ("{positives: 0.6, final: 0.2, over_epochs: 7}", SamplingSchedule(0.6, 0.2, 7)),
    ],
)
def test_batches_are_what_the_configuration_says(
    folder: Path, written: str, sampling: SamplingSchedule
) -> None:
    overrides = [f"training.sampling={written}", "training.augmentation={noise: 0.1, horizontal_flip: 0.5}"]
    settings = load_configuration(folder / "network.yaml", overrides).training
    with Store.open(folder / "data.h5") as store:
        chosen = np.arange(20)
        augmentation = AugmentationSettings(horizontal_flip=0.5, noise=0.1)
        expected = Loader(store, chosen, 5, 7, sampling, augmentation)
        for number in (1, 2):
            pairs = zip(
                training_batches(store, chosen, settings).epoch(number), expected.epoch(number), strict=True
            )
            for one, other in pairs:
                for found, wanted in zip(one, other, strict=True):
                    np.testing.assert_array_equal(found, wanted)


def test_without_held_out_images_they_are_scored_as_they_are(folder: Path) -> None:
    """Each image is scored once despite sampling: the baseline is the share of negatives in the file."""
    words = ["--set", "training.validation_fraction=0", "--set", "training.sampling={positives: 1.0}"]
    train(*words, "--set", "training.augmentation={scale: 0.9}", cwd=folder, how=run_here)
    for record in history(folder / MODEL):
        assert record["scored_on"] == "training"
        assert record["dice_all_empty"] == pytest.approx(2 / 3)


def test_crops_train_and_whole_images_are_scored(folder: Path) -> None:
    """The scores are those of the saved weights on whole images, and a resumed run has the same bits."""
    words = ["--set", "training.crop={size: 16, positives: 0.9}", "--set", "training.average_best=0"]
    said = train(*words, "--epochs", "2", cwd=folder, how=run_here)
    assert " to train in crops of 16x16, " in said
    checkpoint = load_checkpoint(folder / MODEL / "last.safetensors")
    configuration, settings = checkpoint.configuration, checkpoint.configuration.training
    rules = settings.rules()
    model = ReferenceModel(lower(configuration.network, 32, 32), rules, settings.precision)
    model.load_state(checkpoint.arrays)
    with Store.open(folder / "data.h5") as store:
        held_out = split_store(store, settings.validation_fraction, settings.seed).validation
        losses = [
            (float(model.evaluate(batch.images, batch.masks)[0]), len(batch.images))
            for batch in Loader(store, held_out, settings.batch_size).epoch(0)
        ]
    expected = sum(loss * count for loss, count in losses) / len(held_out)
    assert history(folder / MODEL)[-1]["validation_loss"] == pytest.approx(expected, rel=1e-5)
    (folder / MODEL).rename(folder / "whole")
    train(*words, "--epochs", "1", cwd=folder, how=run_here)
    train("--resume", "--epochs", "2", cwd=folder, how=run_here)
    again = load_checkpoint(folder / MODEL / "last.safetensors")
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


@pytest.mark.parametrize(
    ("size", "says"),
    [(33, ["training.crop.size: 33", "only 32x32"]), (15, ["training.crop.size: 15", "masks of 16x16"])],
)
def test_crops_that_do_not_fit_are_refused(folder: Path, size: int, says: list[str]) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    refused(*words, "--set", f"training.crop={{size: {size}}}", cwd=folder, how=run_here, says=says)


def test_the_rate_is_shown_where_it_changes(folder: Path) -> None:
    said = train("--set", "training.schedule={name: step, every: 1}", cwd=folder, how=run_here)
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert ["rate 1.00e-02" in lines[0], "rate 1.00e-03" in lines[1]] == [True, True]
    assert "rate" not in train(cwd=folder, how=run_here)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.sampling={final: 0.2}", ["training.sampling.positives: missing"]),
        ("training.sampling={positives: 1.2}", ["training.sampling.positives: ", "1.2"]),
        ("training.augmentation={rotate: 200}", ["training.augmentation.rotate: ", "200"]),
        (
            "training.augmentation={rotat: 5}",
            ["training.augmentation.rotat: unknown key; did you mean 'training.augmentation.rotate'?"],
        ),
        ("training.schedule={name: step}", ["training.schedule: a step schedule takes either"]),
    ],
)
def test_what_is_no_recipe_is_named(folder: Path, setting: str, says: list[str]) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--set", setting]
    refused(*words, cwd=folder, says=says, how=run_here)


WHOLE = """\
  schedule: {name: cosine, warmup_epochs: 0.5, final: 0.1}
  sampling: {positives: 0.7, final: 0.3, over_epochs: 3}
  augmentation: {horizontal_flip: 0.5, shift: 0.1, scale: 0.1, rotate: 20, brightness: 0.1, contrast: 0.1,
                 gamma: 0.2, noise: 0.05, noise_probability: 0.5}
  average_best: 2
"""


def test_the_whole_recipe_interrupted_and_resumed_gives_the_same_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt a run repeatedly after a few batches: 19 images in four batches per epoch."""
    with (folder / "network.yaml").open("a") as file:
        file.write(WHOLE)
    words = ["--epochs", "4"]
    train(*words, "--out", "whole", cwd=folder, how=run_here)
    left = 0

    class Stopping(StopRequest):
        def __call__(self) -> bool:
            nonlocal left
            left -= 1
            self.number = signal.SIGINT if left < 0 else 0
            return super().__call__()

    @contextlib.contextmanager
    def stopping() -> Iterator[StopRequest]:
        yield Stopping()

    monkeypatch.setattr(training, "interruptible", stopping)
    begun, stops = False, 0
    for left in itertools.cycle([3, 5, 2, 9]):  # noqa: B007 - counted down by `Stopping`
        how = ["--resume"] if begun else ["--config", "network.yaml", *words]
        done = run_here("-f", "reference", "--data", "data.h5", *how, cwd=folder)
        assert (done.returncode, done.stderr) in ((0, ""), (130, "")), done.stderr
        if done.returncode == 0:
            break
        begun, stops = True, stops + 1
    assert stops > 3
    assert_same_run(folder / "whole" / MODEL, folder / MODEL)
    rates = [record["learning_rate"] for record in history(folder / MODEL)]
    assert rates == sorted(rates, reverse=True)
    averaged = [(folder / where / MODEL / "averaged.safetensors").exists() for where in ("whole", ".")]
    assert averaged[0] == averaged[1]


def test_what_spans_the_run_is_said_to_change_with_its_length(folder: Path) -> None:
    shares = "training.sampling={positives: 0.5, final: 0.25}"
    cosine = ["--set", "training.schedule={name: cosine}", "--set", shares]
    train("--epochs", "1", *cosine, cwd=folder, how=run_here)
    said = train("--resume", "--epochs", "2", cwd=folder, how=run_here)
    assert (
        "training.epochs was 1 and is now 2: from here on the learning rate (schedule: cosine) and the "
        in said
    )
    assert "training.epochs was" not in train("--resume", cwd=folder, how=run_here)
    # Four updates per epoch: the last of eight follows seven others.
    assert history(folder / MODEL)[-1]["learning_rate"] == pytest.approx(0.005 * (1 + np.cos(np.pi * 7 / 8)))


def test_an_average_is_told_and_listed(folder: Path) -> None:
    said = train("--epochs", "4", "--set", "training.average_best=2", cwd=folder, how=run_here)
    (told,) = [line for line in said.splitlines() if line.startswith("Average of epochs ")]
    used = (folder / MODEL / "averaged.safetensors").exists()
    assert told.endswith("it is used" if used else "it is not used")
    assert ("averaged.safetensors, " in said) == used
    assert not (folder / MODEL / "averaging").exists()
