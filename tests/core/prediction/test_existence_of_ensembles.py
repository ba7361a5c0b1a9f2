"""The existence head in ensembles, with mirror images and in exports, on the reference backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from core.backend.contract import ExistenceModel
from core.backend.registry import load_backend
from core.backend.state import initial_state
from core.base.errors import UserError
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, save_checkpoint
from core.experiment.configuration import parse_configuration
from core.network.lowering import lower
from core.prediction.exports import (
    ExportSource,
    Outputs,
    largest_difference,
    predict_reference,
    with_white_level,
)
from core.prediction.trained_models import Predictor, find_members, has_existence, mean_thresholds
from core.scoring.thresholds import Thresholds
from core.scoring.views import Views
from core.tasks.predictions import choose_settings

HEIGHT, WIDTH = 8, 12
BLOCKS = [{"name": "down", "kind": "conv", "filters": 3}, {"name": "mask", "kind": "output"}]
REFERENCE = load_backend("reference")[1]


def configuration(**network: Any) -> Any:
    return parse_configuration({"network": {"batch_norm": False, "blocks": BLOCKS, **network}})


def source(seed: int) -> ExportSource:
    given = configuration(existence={})
    plan, rules = lower(given.network, HEIGHT, WIDTH), given.training.rules()
    state = initial_state(plan, rules, seed)
    state["existence/kernel"] = state["existence/kernel"] * 20
    return ExportSource(plan, rules, "float32", dict(state))


def write_model(folder: Path, seed: int) -> Path:
    content = Checkpoint(
        configuration(existence={}), DataFacts(4, 1, HEIGHT, WIDTH), Progress(), source(seed).state
    )
    folder.mkdir()
    save_checkpoint(folder / "best.safetensors", content)
    return folder


def images() -> NDArray[np.float32]:
    """Two images of different brightness."""
    drawn = np.random.default_rng(3).random((2, HEIGHT, WIDTH, 1), dtype=np.float32)
    drawn[1] *= np.float32(0.3)
    return drawn


def alone(seed: int, of: NDArray[np.float32]) -> tuple[Any, Any]:
    given = source(seed)
    model = cast(ExistenceModel, REFERENCE.compile(given.plan, given.rules, "cpu", "float32"))
    model.load_state(given.state)
    return model.predict_with_existence(of)


def test_an_ensemble_is_the_mean_of_its_models_and_of_mirror_images(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / f"{seed}", seed) for seed in (1, 2)]
    members = find_members(folders)
    assert has_existence(members)
    mirrored = np.ascontiguousarray(images()[:, :, ::-1])
    plain, turned = (np.array([alone(seed, x)[1] for seed in (1, 2)]) for x in (images(), mirrored))
    assert abs(plain - turned).max() > 1e-4
    found = Predictor(members, REFERENCE, "cpu").predict_with_existence(images())
    assert found.existence is not None
    np.testing.assert_allclose(found.existence, plain.mean(axis=0), atol=1e-7)
    assert found.existence_of(1) == found.existence[1]
    flipped = Predictor(members, REFERENCE, "cpu", views=Views(flip=True))
    both = flipped.predict_with_existence(images())
    assert both.existence is not None
    np.testing.assert_allclose(both.existence, (plain + turned).mean(axis=0) / 2, atol=1e-7)
    np.testing.assert_array_equal(both.masks, flipped.predict(images()))


def test_without_the_head_there_is_none(tmp_path: Path) -> None:
    given = configuration()
    plan = lower(given.network, HEIGHT, WIDTH)
    state = initial_state(plan, given.training.rules(), 1)
    (tmp_path / "plain").mkdir()
    content = Checkpoint(given, DataFacts(4, 1, HEIGHT, WIDTH), Progress(), state)
    save_checkpoint(tmp_path / "plain" / "best.safetensors", content)
    members = find_members([tmp_path / "plain"])
    found = Predictor(members, REFERENCE, "cpu").predict_with_existence(images())
    assert found.existence is None
    assert found.existence_of(0) is None
    with pytest.raises(UserError, match="with and without the existence head cannot predict together"):
        find_members([tmp_path / "plain", write_model(tmp_path / "head", 1)])


def test_thresholds_of_models(tmp_path: Path) -> None:
    pair = [Thresholds(0.25, 100, 0.5, 0.25), Thresholds(0.5, 300, 1, 0.75)]
    assert mean_thresholds(pair) == Thresholds(0.375, 200, 0.75, 0.5)
    assert choose_settings([tmp_path], {}, head=True).thresholds == Thresholds(existence=0.5)
    assert choose_settings([tmp_path], {}).thresholds == Thresholds()
    given = choose_settings([tmp_path], {"existence": 0.0, "pixel": 0.25}, head=True)
    assert given.thresholds == Thresholds(0.25, 0, 0.5, 0.0)
    with pytest.raises(UserError, match="has no existence head"):
        choose_settings([tmp_path], {"existence": 0.5})


@pytest.mark.parametrize("white", [1, 255])
def test_an_export_is_compared_in_both_outputs(white: float) -> None:
    given = source(1)
    expected = predict_reference(REFERENCE, given, images())
    scaled = predict_reference(REFERENCE, with_white_level(given, white), images() * np.float32(white))
    assert expected.existence is not None
    assert largest_difference(scaled, expected, "float32", "it") < 1e-6
    with pytest.raises(UserError, match="it gives no existence probabilities"):
        largest_difference(Outputs(expected.masks, None), expected, "float32", "it")
    turned, wide = expected.existence[::-1], expected.existence[:, np.newaxis]
    with pytest.raises(UserError, match="it is wrong"):
        largest_difference(Outputs(expected.masks, turned), expected, "float32", "it")
    with pytest.raises(UserError, match=r"existence probabilities of \(2, 1\); expected \(2,\)"):
        largest_difference(Outputs(expected.masks, wide), expected, "float32", "it")
