"""Pictures: outlines where they belong, in their colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from core.pictures import Sample, draw_grey, draw_outlines, draw_overlay, draw_sample, draw_sheet, outline


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
