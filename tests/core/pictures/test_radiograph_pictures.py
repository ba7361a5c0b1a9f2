"""Pictures: outlines in their places and colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.pictures.radiographs import (
    PredictionPicture,
    Sample,
    draw_grey,
    draw_outlines,
    draw_overlay,
    draw_prediction,
    draw_sample,
    draw_sheet,
    outline,
)


def test_an_outline_is_the_mask_without_its_inside() -> None:
    mask = np.zeros((6, 7), np.uint8)
    mask[1:5, 2:6] = 1
    mask[0, 0] = 1
    edge = outline(mask)
    assert edge.sum() == 13
    assert edge[0, 0]
    assert not edge[2:4, 3:5].any()
    assert not (edge & (mask == 0)).any()
    assert outline(np.ones((5, 4))).sum() == 2 * 4 + 2 * 3


def sample(height: int, width: int) -> Sample:
    rng = np.random.default_rng(height)
    truth, probability = np.zeros((height, width), np.uint8), np.zeros((height, width))
    truth[2:9, 3:12] = 1
    probability[5:11, 8:15] = 0.7
    return Sample(rng.uniform(0.2, 0.6, (height, width)), truth, probability, 0.25)


def test_truth_is_green_prediction_red_and_both_yellow() -> None:
    picture = draw_sample(sample(16, 20), 0.5)
    assert picture.shape == (16, 3 * 20 + 2 * 4, 3)
    plain, overlay, probability = picture[:, :20], picture[:, 24:44], picture[:, 48:]
    truth, found = outline(sample(16, 20).truth), outline(sample(16, 20).probability >= 0.5)
    assert (truth & found).any()
    for mask, colour in (
        (truth & ~found, (0, 255, 0)),
        (found & ~truth, (255, 0, 0)),
        (truth & found, (255, 255, 0)),
    ):
        assert (overlay[mask] == colour).all()
    untouched = ~(truth | found)
    np.testing.assert_array_equal(overlay[untouched], plain[untouched])
    assert set(np.unique(probability)) == {0, 178}


def test_a_threshold_that_nothing_reaches_draws_no_red() -> None:
    overlay = draw_sample(sample(16, 20), 0.8)[:, 24:44]
    assert not ((overlay[..., 0] == 255) & (overlay[..., 1] != 255)).any()


def test_a_sheet_is_a_png_with_a_row_for_each_sample() -> None:
    samples = [sample(16, 20), sample(16, 20)]
    one, two = (Image.open(io.BytesIO(draw_sheet(samples[:n], 0.5))) for n in (1, 2))
    assert (one.format, one.mode) == ("PNG", "RGB")
    assert two.width == one.width
    assert two.height == 2 * one.height
    assert one.width == (256 // 16) * (3 * 20 + 2 * 4)
    first = np.asarray(two)[one.height - 256 : one.height : 16, ::16]
    np.testing.assert_array_equal(first, draw_sample(samples[0], 0.5))


def test_an_overlay_shows_the_radiograph_with_and_without_the_truth() -> None:
    one = sample(16, 20)
    picture = np.asarray(Image.open(io.BytesIO(draw_overlay(one.image, one.truth))))
    assert picture.shape == (256, 16 * (2 * 20 + 4), 3)
    without_prediction = Sample(one.image, one.truth, np.zeros((16, 20)), 0.0)
    np.testing.assert_array_equal(picture[::16, ::16], draw_sample(without_prediction, 0.5)[:, :44])


def test_outlines_laid_over_the_radiograph_give_the_overlay() -> None:
    one = sample(17, 21)
    predicted = one.probability >= 0.5
    below = Image.open(io.BytesIO(draw_grey(one.image)))
    above = Image.open(io.BytesIO(draw_outlines(one.truth, predicted)))
    assert (below.mode, below.size, above.size) == ("L", (21, 17), (21, 17))
    laid = Image.alpha_composite(below.convert("RGBA"), above.convert("RGBA")).convert("RGB")
    np.testing.assert_array_equal(np.asarray(laid), draw_sample(one, 0.5)[:, 25:46])


def predicted_image(height: int, width: int, truth: bool = True) -> PredictionPicture:
    one = sample(height, width)
    return PredictionPicture(
        image=one.image,
        probability=one.probability,
        mask=(one.probability >= 0.5).astype(np.uint8),
        truth=one.truth if truth else None,
        title="which\nimage",
        verdict="what is said",
    )


def opened(one: PredictionPicture) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(draw_prediction(one))))


def test_a_prediction_shows_image_outlines_and_heat_below_a_caption() -> None:
    picture = opened(predicted_image(16, 20))
    assert picture.shape[1] == 16 * (3 * 20 + 2 * 4)
    assert (picture[0] == 255).all()
    panels = picture[-256::16, ::16]
    np.testing.assert_array_equal(panels[:, :44], draw_sample(sample(16, 20), 0.5)[:, :44])
    plain, heat = panels[:, :20].astype(int), panels[:, 48:].astype(int)
    certain = sample(16, 20).probability > 0
    np.testing.assert_array_equal(heat[~certain], plain[~certain])
    # Probability 0.7 is orange: more red than green, more green than blue.
    assert (heat[certain][:, 0] > heat[certain][:, 1] + 20).all()
    assert (heat[certain][:, 1] > heat[certain][:, 2] + 20).all()


@pytest.mark.parametrize(("height", "width"), [(16, 20), (700, 500)])
def test_the_scale_of_a_prediction_stands_whole_at_the_right_of_its_caption(height: int, width: int) -> None:
    picture = opened(predicted_image(height, width)).astype(int)
    caption = picture[: -max(256 // height, 1) * height]
    coloured = np.argwhere(np.ptp(caption, axis=-1) > 8)  # letters are grey
    (top, left), (bottom, right) = coloured.min(axis=0), coloured.max(axis=0)
    bar = caption[top : bottom + 1, left : right + 1]
    assert bar.shape[1] == pytest.approx(
        10 * bar.shape[0], rel=0.1
    )  # its black and white ends are not coloured
    assert (bar == bar[:1]).all()
    red, green, blue = bar[0].T
    assert (np.diff(red) >= 0).all()
    assert (red[0], green[0]) < (20, 20)
    assert (red[-1], green[-1], blue[-1]) > (240, 240, 100)
    assert 240 > red[len(red) // 2] > 180
    assert 80 > green[len(green) // 2] > 40
    after, before = caption[top:bottom, right + bar.shape[0] // 2 :], caption[top:bottom, :left]
    assert after.shape[1] > bar.shape[0]
    assert after.min() < 128, "the 1 behind it"
    assert before[:, -bar.shape[1] :].min() < 128, "the 0 before it"
    assert left > 2 * width * max(256 // height, 1)


def test_a_prediction_without_truth_has_no_green() -> None:
    middle = opened(predicted_image(16, 20, truth=False))[-256::16, ::16][:, 24:44]
    predicted = outline(sample(16, 20).probability >= 0.5)
    np.testing.assert_array_equal((middle == (255, 0, 0)).all(axis=-1), predicted)
    assert not ((middle[..., 1] == 255) & (middle[..., 0] == 0)).any()


def test_a_large_prediction_is_shrunk_and_no_pixel_of_its_mask_gets_lost() -> None:
    height, width = 1500, 2560
    mask = np.zeros((height, width), np.uint8)
    mask[700, 1300] = 1
    image = np.full((height, width), 0.25)
    picture = opened(PredictionPicture(image, np.zeros((height, width)), mask, None, "large", "one pixel"))
    assert picture.shape[1] == 3 * 1024 + 2 * 4
    middle = picture[-600:, 1028:2052]
    assert [tuple(place) for place in np.argwhere((middle == (255, 0, 0)).all(axis=-1))] == [(280, 520)]
    assert (picture[-600:, :1024] == 64).all()


def test_outlines_of_large_pictures_are_thicker_and_stay_inside() -> None:
    mask = np.zeros((900, 1000), np.uint8)
    mask[100:400, 200:600] = 1
    picture = opened(PredictionPicture(np.zeros((900, 1000)), np.zeros((900, 1000)), mask, None, "", ""))
    red = (picture[-900:, 1004:2004] == (255, 0, 0)).all(axis=-1)
    inner = np.zeros_like(red)
    inner[102:398, 202:598] = True
    np.testing.assert_array_equal(red, (mask > 0) & ~inner)
