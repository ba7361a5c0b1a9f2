"""Ensembles, mirror images and the choice of the checkpoint, on the reference backend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.reference.model import ReferenceModel
from core.backend.registry import load_backend
from core.backend.state import average_name, initial_state
from core.base.errors import UserError
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, load_checkpoint, save_checkpoint
from core.experiment.configuration import parse_configuration
from core.network.lowering import lower
from core.prediction.trained_models import (
    Predictor,
    belongs_to_model,
    find_members,
    find_thresholds,
    folds,
    missing_folds,
)
from core.scoring.thresholds import Thresholds, save_thresholds
from core.scoring.views import PLAIN, Views

HEIGHT, WIDTH = 8, 12
CONFIGURATION = parse_configuration(
    {
        "network": {
            "batch_norm": False,
            "blocks": [
                {"name": "down", "kind": "conv", "filters": 3},
                {"name": "mask", "kind": "output"},
            ],
        }
    }
)


def write_model(path: Path, seed: int, height: int = HEIGHT) -> None:
    """Write a checkpoint with the initial weights of a seed."""
    plan = lower(CONFIGURATION.network, height, WIDTH)
    state = initial_state(plan, CONFIGURATION.training.rules(), seed)
    save_checkpoint(path, Checkpoint(CONFIGURATION, DataFacts(4, 1, height, WIDTH), Progress(), state))


def predictor(*folders: Path, views: Views = PLAIN) -> Predictor:
    _, reference = load_backend("reference")
    return Predictor(find_members(folders), reference, "cpu", views=views)


def images() -> NDArray[np.float32]:
    return np.random.default_rng(3).random((2, HEIGHT, WIDTH, 1), dtype=np.float32)


def alone(seed: int, of: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the reference's predictions with the initial weights of a seed."""
    plan, training = lower(CONFIGURATION.network, HEIGHT, WIDTH), CONFIGURATION.training
    model = load_backend("reference")[1].compile(plan, training.rules(), "cpu", training.precision)
    model.load_state(initial_state(plan, training.rules(), seed))
    return model.predict(of)


def test_an_ensemble_is_the_mean_of_its_models(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_model(tmp_path / f"{seed}" / "best.safetensors", seed)
    each = [alone(seed, images()) for seed in (1, 2, 3)]
    np.testing.assert_array_equal(predictor(tmp_path / "2").predict(images()), each[1])
    together = predictor(*(tmp_path / f"{seed}" for seed in (1, 2, 3))).predict(images())
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-7)
    assert np.abs(together - each[0]).max() > 1e-3


def shrunk(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return an image of half the size (means of four pixels), or of twice the size (each pixel repeated)."""
    rows, columns = pixels.shape
    if rows < height:
        return np.repeat(np.repeat(pixels, height // rows, axis=0), width // columns, axis=1)
    return pixels.reshape(height, rows // height, width, columns // width).mean(axis=(1, 3))


def test_scales_are_averaged(tmp_path: Path) -> None:
    """Each image at half its size too, predicted by a network compiled for that size, and repeated back."""
    write_model(tmp_path / "1" / "best.safetensors", 1)
    plan, training = lower(CONFIGURATION.network, HEIGHT // 2, WIDTH // 2), CONFIGURATION.training
    small = load_backend("reference")[1].compile(plan, training.rules(), "cpu", training.precision)
    small.load_state(initial_state(plan, training.rules(), 1))

    def by_hand(of: NDArray[np.float32]) -> NDArray[np.float64]:
        halved = (of[:, ::2, ::2] + of[:, 1::2, ::2] + of[:, ::2, 1::2] + of[:, 1::2, 1::2]) / 4
        found = small.predict(halved.astype(np.float32))
        assert np.abs(np.kron(found[0, ..., 0], np.ones((2, 2))) - alone(1, of)[0, ..., 0]).max() > 1e-3
        return (
            alone(1, of).astype(float) + np.stack([np.kron(one, np.ones((2, 2, 1))) for one in found])
        ) / 2

    expected, turned = by_hand(images()), by_hand(np.ascontiguousarray(images()[:, :, ::-1]))[:, :, ::-1]
    members, (_, reference) = find_members([tmp_path / "1"]), load_backend("reference")
    for views, wanted in (
        (Views(scales=(0.5, 1.0)), expected),
        (Views(flip=True, scales=(0.5, 1.0)), (expected + turned) / 2),
    ):
        found = Predictor(members, reference, "cpu", views=views, resize=shrunk).predict(images())
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_flip_averaging(tmp_path: Path) -> None:
    """The prediction for the mirror image is the mirrored prediction for the image."""
    for seed in (1, 2):
        write_model(tmp_path / f"{seed}" / "best.safetensors", seed)
    mirrored = images()[:, :, ::-1]
    plain = {seed: alone(seed, images()) for seed in (1, 2)}
    turned = {seed: alone(seed, np.ascontiguousarray(mirrored))[:, :, ::-1] for seed in (1, 2)}
    assert np.abs(turned[1] - plain[1]).max() > 1e-3
    one = predictor(tmp_path / "1", views=Views(flip=True))
    np.testing.assert_allclose(one.predict(images()), (plain[1] + turned[1]) / 2, atol=1e-7)
    np.testing.assert_allclose(one.predict(mirrored), one.predict(images())[:, :, ::-1], atol=1e-7)
    both = predictor(tmp_path / "1", tmp_path / "2", views=Views(flip=True)).predict(images())
    np.testing.assert_allclose(both, (plain[1] + turned[1] + plain[2] + turned[2]) / 4, atol=1e-7)


def test_folds_are_the_ensemble_of_a_folder_in_their_order(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_model(tmp_path / f"fold{number}" / "best.safetensors", number)
    (tmp_path / "fold1.1").mkdir()  # an earlier run, set aside
    assert [path.name for path in folds(tmp_path)] == ["fold0", "fold2", "fold10"]
    assert [member.folder.name for member in find_members([tmp_path])] == ["fold0", "fold2", "fold10"]


def test_folds_that_are_not_there_are_told(tmp_path: Path) -> None:
    training = CONFIGURATION.training.model_copy(update={"folds": 4})
    for number in (2, 0):
        path = tmp_path / f"fold{number}" / "best.safetensors"
        write_model(path, number)
        found = load_checkpoint(path)
        of_fold = found.configuration.model_copy(update={"training": training})
        save_checkpoint(path, dataclasses.replace(found, configuration=of_fold))
    members = find_members([tmp_path])
    assert missing_folds([tmp_path], members) == [tmp_path / "fold1", tmp_path / "fold3"]
    alone = [tmp_path / "fold0"]
    assert missing_folds(alone, find_members(alone)) == []


def test_the_average_predicts_where_there_is_one(tmp_path: Path) -> None:
    write_model(tmp_path / "best.safetensors", 1)
    assert find_members([tmp_path])[0].path.name == "best.safetensors"
    write_model(tmp_path / "averaged.safetensors", 2)
    assert find_members([tmp_path])[0].path.name == "averaged.safetensors"


def test_folders_without_a_model_are_named(tmp_path: Path) -> None:
    write_model(tmp_path / "a" / "best.safetensors", 1)
    write_model(tmp_path / "b" / "best.safetensors", 1, height=16)
    with pytest.raises(UserError, match=r"8x12 .*a.*16x12 .*b"):
        find_members([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match="has no trained model"):
        find_members([tmp_path])
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_members([tmp_path / "nowhere"])


def test_thresholds_of_an_ensemble_are_the_mean(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    save_thresholds(tmp_path / "a", Thresholds(0.25, 100, 0.5))
    assert find_thresholds([tmp_path / "a"]) == Thresholds(0.25, 100, 0.5)
    assert find_thresholds([tmp_path / "a", tmp_path / "b"]) is None
    save_thresholds(tmp_path / "b", Thresholds(0.5, 300, 1))
    assert find_thresholds([tmp_path / "a", tmp_path / "b"]) == Thresholds(0.375, 200, 0.75)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((f"{name}.safetensors", True) for name in ("last", "best", "averaged", "mine")),
        *((name, True) for name in ("thresholds.json", "history.json", "predictions.png")),
        *((name, False) for name in ("notes.txt", "masks.zip", "scores.csv", "a.json", "mine.png")),
        *((name, False) for name in ("safetensors", "best.safetensors.old", "data.h5", "fold0")),
        *((f"{folder}/{name}", True) for folder in ("export", "averaging") for name in ("a", "b.csv")),
        *((f"export/{name}", True) for name in ("variables/index", "deep/and/deeper.zip")),
        *(
            (f"fold3/{name}", True)
            for name in ("best.safetensors", "history.json", "export/a", "averaging/b")
        ),
        *((name, False) for name in ("export", "averaging", "exports/a", "fold3/a.csv", "mine/export/a")),
    ],
)
def test_what_a_model_is_made_of(name: str, expected: bool) -> None:
    assert belongs_to_model(Path(name)) == expected


def test_models_that_predict_have_no_arrays_of_the_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam and a moving average keep three times the size of the network beside it."""
    training = {"optimizer": {"name": "adam"}, "ema": {"decay": 0.9}}
    configuration = parse_configuration({**CONFIGURATION.model_dump(), "training": training})
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    state = initial_state(plan, rules, 1)
    names = [array.name for array in plan.arrays]
    averages = {average_name(name): state[name] / 2 for name in names}
    assert len(state) == 4 * len(names)
    content = Checkpoint(configuration, DataFacts(4, 1, HEIGHT, WIDTH), Progress(), {**state, **averages})
    save_checkpoint(tmp_path / "best.safetensors", content)
    (member,) = find_members([tmp_path])
    assert set(member.checkpoint.arrays) == set(names)
    for name, array in member.checkpoint.arrays.items():
        np.testing.assert_array_equal(array, state[name] / 2)
    loaded: list[list[str]] = []
    (_, reference), load = load_backend("reference"), ReferenceModel.load_state
    monkeypatch.setattr(
        ReferenceModel, "load_state", lambda self, state: (loaded.append(list(state)), load(self, state))[1]
    )
    Predictor([member], reference, "cpu").predict(images())
    assert [set(each) for each in loaded] == [set(names)]
