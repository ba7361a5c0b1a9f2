"""The recipe as a user writes it: from the configuration to batches, and through interruptions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from command_line import history, refused, run_here, train

from core import recipe
from core.commands.batches import training_batches
from core.configuration import load_configuration
from data.augmentation import Augmentation
from data.loader import Loader
from data.sampling import Sampling
from data.store import Store

MODEL = "reference_model"


def test_the_settings_are_those_of_the_data() -> None:
    """Two classes, as `data` knows no configuration: the same names and the same defaults."""
    assert recipe.Augmentation().model_dump() == dataclasses.asdict(Augmentation())
    assert list(recipe.Augmentation.model_fields) == [
        field.name for field in dataclasses.fields(Augmentation)
    ]
    assert recipe.Sampling.model_fields.keys() == {field.name for field in dataclasses.fields(Sampling)}


@pytest.mark.parametrize(
    ("written", "sampling"),
    [
        ("{positives: 0.6}", Sampling(0.6, 0.6, 2)),
        ("{positives: 0.6, final: 0.0}", Sampling(0.6, 0.0, 2)),
        ("{positives: 0.6, final: 0.2, over_epochs: 7}", Sampling(0.6, 0.2, 7)),
    ],
)
def test_batches_are_what_the_configuration_says(folder: Path, written: str, sampling: Sampling) -> None:
    overrides = [f"training.sampling={written}", "training.augmentation={noise: 0.1, horizontal_flip: 0.5}"]
    settings = load_configuration(folder / "network.yaml", overrides).training
    with Store.open(folder / "data.h5") as store:
        chosen = np.arange(20)
        augmentation = Augmentation(horizontal_flip=0.5, noise=0.1)
        expected = Loader(store, chosen, 5, 7, sampling, augmentation)
        for number in (1, 2):
            pairs = zip(
                training_batches(store, chosen, settings).epoch(number), expected.epoch(number), strict=True
            )
            for one, other in pairs:
                for found, wanted in zip(one, other, strict=True):
                    np.testing.assert_array_equal(found, wanted)


def test_without_held_out_images_they_are_scored_as_they_are(folder: Path) -> None:
    """Each once, however often training takes it: the floor is the share of negatives in the file."""
    words = ["--set", "training.validation_fraction=0", "--set", "training.sampling={positives: 1.0}"]
    train(*words, "--set", "training.augmentation={scale: 0.9}", cwd=folder, how=run_here)
    for record in history(folder / MODEL):
        assert record["scored_on"] == "training"
        assert record["dice_all_empty"] == pytest.approx(2 / 3)


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
            ["training.augmentation.rotat: unknown key; did you mean 'rotate'?"],
        ),
        ("training.schedule={name: step}", ["training.schedule: a step schedule takes either"]),
    ],
)
def test_what_is_no_recipe_is_named(folder: Path, setting: str, says: list[str]) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--set", setting]
    refused(*words, cwd=folder, says=says, how=run_here)
