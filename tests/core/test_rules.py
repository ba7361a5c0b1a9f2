"""Adam's scalars, and the reference's update and losses, against the papers' formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.reference import losses, optimizers
from core.plan import Constant, Parameter
from core.rules import AdamRule, adam_step

ADAM = AdamRule(beta1=float(np.float32(0.9)), beta2=float(np.float32(0.999)), epsilon=float(np.float32(1e-7)))
LOGITS = np.random.default_rng(0).normal(scale=3.0, size=(2, 5, 4, 1))
MASKS = (np.random.default_rng(1).random((2, 5, 4, 1)) < 0.3).astype(float)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("role", ["kernel", "bias", "gamma", "beta"])
def test_updates_are_those_of_the_paper(role: Any, decay: float) -> None:
    """Kingma and Ba's algorithm 1 with its epsilon moved as their section 2 ends, decay as AdamW's."""
    rng = np.random.default_rng(2)
    weights, m, v = rng.normal(size=(3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    expected, first, second = weights.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    parameter = Parameter("x", (3, 2), role, Constant(0.0))
    for step in range(1, 8):
        gradient, rate = rng.normal(size=(3, 2)), 0.1 / step
        optimizers.adam(ADAM, adam_step(ADAM, step, rate, decay), parameter, weights, m, v, gradient)
        first = ADAM.beta1 * first + (1 - ADAM.beta1) * gradient
        second = ADAM.beta2 * second + (1 - ADAM.beta2) * gradient**2
        m_hat, v_hat = first / (1 - ADAM.beta1**step), second / (1 - ADAM.beta2**step)
        epsilon_hat = ADAM.epsilon / (1 - ADAM.beta2**step) ** 0.5
        shrunk = rate * decay * expected if role == "kernel" else 0.0
        expected = expected - shrunk - rate * m_hat / (v_hat**0.5 + epsilon_hat)
    np.testing.assert_allclose(weights, expected, rtol=2e-7)


def test_scalars_are_float32_numbers_and_the_first_step_counts_from_one() -> None:
    scalars = adam_step(ADAM, 1, 1e-3, 0.05)
    assert scalars.step == 1
    assert scalars.size == float(np.float32(scalars.size))
    assert scalars.size == pytest.approx(1e-3 * (1 - ADAM.beta2) ** 0.5 / (1 - ADAM.beta1), rel=1e-7)
    assert scalars.decay == pytest.approx(5e-5, rel=1e-7)
    assert adam_step(ADAM, 100_000, 1e-3).size == pytest.approx(1e-3, rel=1e-6)


def clip(gradients: dict[str, NDArray[Any]], norm: float) -> float:
    clipped = optimizers.clip_by_global_norm(gradients, norm)
    return float(np.sqrt(sum((array**2).sum() for array in clipped.values())))


def test_clipping_bounds_the_norm_over_all_gradients() -> None:
    gradients = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert clip(gradients, 2.0) == pytest.approx(2.0)
    assert clip(gradients, 5.5) == pytest.approx(5.0)


def naive_bce(x: NDArray[Any], z: NDArray[Any]) -> float:
    p = 1 / (1 + np.exp(-x))
    return float(-np.mean(z * np.log(p) + (1 - z) * np.log(1 - p)))


def naive_dice(x: NDArray[Any], z: NDArray[Any]) -> float:
    p = 1 / (1 + np.exp(-x))
    return float(1 - (2 * (p * z).sum() + 1) / (p.sum() + z.sum() + 1))


def naive_focal(x: NDArray[Any], z: NDArray[Any]) -> float:
    p = 1 / (1 + np.exp(-x))
    right = np.where(z == 1, p, 1 - p)
    return float(np.mean(-((1 - right) ** 1.5) * np.log(right)))


@pytest.mark.parametrize(
    ("ours", "naive"),
    [
        (losses.bce, naive_bce),
        (losses.dice, naive_dice),
        (lambda x, z: losses.focal(x, z, 1.5), naive_focal),
    ],
    ids=["bce", "dice", "focal"],
)
def test_losses_are_their_papers_and_gradients_their_differences(
    ours: Callable[..., losses.Loss], naive: Callable[..., float]
) -> None:
    value, gradient = ours(LOGITS, MASKS)
    assert value == pytest.approx(naive(LOGITS, MASKS), rel=1e-12)
    assert gradient.shape == LOGITS.shape
    for index in np.ndindex(LOGITS.shape):
        there, back = LOGITS.copy(), LOGITS.copy()
        there[index] += 1e-5
        back[index] -= 1e-5
        slope = (naive(there, MASKS) - naive(back, MASKS)) / 2e-5
        assert gradient[index] == pytest.approx(slope, rel=1e-5, abs=1e-10)
