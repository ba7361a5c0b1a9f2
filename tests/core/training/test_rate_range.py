"""The learning-rate range test, on losses whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.training.rate_range import NEIGHBOURS, RateRange, draw_rates, find_rates


def descent_of_a_parabola(curvature: float) -> list[float]:
    """Return the steepest, lowest and last rate of gradient descent on curvature * w**2 / 2 from w = 1."""
    weights = [1.0]

    def update(number: int, rate: float) -> float:
        assert number == len(weights)
        weights.append(weights[-1] * (1 - rate * curvature))
        return curvature * weights[-2] ** 2 / 2

    found = find_rates(update, updates=80, lowest=1e-4, highest=100.0)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 100.0, 80)[: len(found.rates)])
    return [found.steepest or math.nan, found.lowest, found.rates[-1]]


def test_the_rates_scale_with_the_curvature_and_it_ends_where_the_loss_diverges() -> None:
    steepest, lowest, last = descent_of_a_parabola(1.0)
    assert steepest < lowest <= last
    assert 0.01 < steepest < 0.5
    assert 2.0 < last < 100.0, "beyond 2 / curvature gradient descent diverges"
    sharper = descent_of_a_parabola(8.0)
    assert sharper[0] < steepest / 2
    assert sharper[2] < last / 2


def test_smoothed_losses_do_not_lag() -> None:
    """Of a loss that falls in a straight line the smoothed loss is the loss, but at the ends."""
    losses = tuple(float(50 - number) for number in range(30))
    found = RateRange(tuple(np.geomspace(1e-5, 1, 30).tolist()), losses)
    assert found.smoothed[NEIGHBOURS:-NEIGHBOURS] == losses[NEIGHBOURS:-NEIGHBOURS]
    assert found.smoothed[0] == np.mean(losses[: NEIGHBOURS + 1])


def test_a_loss_that_is_no_number_ends_it() -> None:
    assert len(find_rates(lambda number, _: math.nan if number == 7 else 1.0 / number, updates=20).rates) == 6


def test_a_loss_that_only_rises_falls_nowhere() -> None:
    found = find_rates(lambda number, _: 1.0 + number / 100, updates=30)
    assert found.steepest is None
    assert found.lowest == found.rates[0]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot(suffix: str) -> None:
    begins = {".png": b"\x89PNG", ".svg": b"<?xml"}[suffix]
    rates = tuple(np.geomspace(1e-5, 1, 30).tolist())
    losses = tuple((2 - np.hanning(30)).tolist())
    assert draw_rates(RateRange(rates, losses), suffix).startswith(begins)
