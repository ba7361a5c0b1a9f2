"""The result of one image: after a crash, and in the caption of an overlay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.commands.predict.results import (
    ImageResult,
    OutputSettings,
    PredictedImage,
    _caption,
    result_of_crash,
)
from core.scoring.thresholds import Thresholds
from core.tasks.predictions import Segmentation, area_in_mm2
from data.radiographs.headers import Geometry
from data.radiographs.reading import ImageFile

NEGATIVE = ["truth negative", "Dice 1.000"]


def test_a_crash_costs_one_image_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("masks", "overlays", "segmentations")]
    settings = OutputSettings(Thresholds(), None, *folders)
    for folder in folders:
        folder.mkdir()
        for name in ("a", "b"):
            (folder / f"{name}{'.dcm' if folder.name == 'segmentations' else '.png'}").write_text("half")
    source = ImageFile(tmp_path / "a.dcm", "a.dcm", "a", height=4, width=5)
    result = result_of_crash(PredictedImage(source, np.zeros((2, 2), np.float32)), settings)
    assert (result.encoding, result.positive) == ("-1", False)
    assert "killed the process" in result.failure
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["b.dcm", "b.png", "b.png"]


@pytest.mark.parametrize(
    ("pixels", "existence", "spacing", "truth", "words"),
    [
        (0, 0.25, None, None, ["no pneumothorax", "existence 0.250, below 0.625"]),
        (6, 0.75, None, None, ["PNEUMOTHORAX", "existence 0.750, at least 0.625", "15.0% of the image"]),
        (
            *(10, 0.625, (20.0, 15.0), 10),
            [
                *("PNEUMOTHORAX", "existence 0.625, at least 0.625", "25.0% of the image", "30.0 cm2"),
                *("truth positive", "Dice 1.000"),
            ],
        ),
        (
            *(2, 0.9, (10.0, 10.0), 6),
            [
                *("PNEUMOTHORAX", "existence 0.900, at least 0.625", "5.0% of the image", "2.0 cm2"),
                *("truth positive", "Dice 0.500"),
            ],
        ),
        (0, 0.1, (10.0, 10.0), 0, ["no pneumothorax", "existence 0.100, below 0.625", *NEGATIVE]),
    ],
)
def test_the_caption_of_an_image(
    pixels: int, existence: float, spacing: tuple[float, float] | None, truth: int | None, words: list[str]
) -> None:
    """The image has 5x8 pixels; `pixels` of them are the mask, `truth` of them the true mask."""
    places = np.arange(40).reshape(5, 8)
    geometry = Geometry(spacing, "PixelSpacing") if spacing else Geometry()
    said = _caption(
        ImageFile(Path("a"), "a", "a", height=5, width=8, geometry=geometry),
        Segmentation(np.zeros((5, 8), np.float32), (places < pixels).astype(np.uint8), existence),
        None if truth is None else (places < truth).astype(np.uint8),
        Thresholds(0.5, 0, 0.625),
    )
    assert said.split("   ") == words


def test_areas() -> None:
    source = ImageFile(Path("a"), "a", "a", geometry=Geometry((0.5, 0.25), "PixelSpacing"))
    assert area_in_mm2(source.geometry, 12) == pytest.approx(1.5)
    assert area_in_mm2(ImageFile(Path("a"), "a", "a").geometry, 12) is None
    assert ImageResult(source, pixels=1).positive
