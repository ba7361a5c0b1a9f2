"""The scalars of a step and the reference's updates and losses follow the papers' formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.reference import losses, optimizers
from core.backend.training_rules import (
    AdamRule,
    LossRule,
    OptimizerRule,
    SgdRule,
    TrainingRules,
    step_scalars,
)
from core.network.plan import Constant, Parameter

ADAM = AdamRule(beta1=float(np.float32(0.9)), beta2=float(np.float32(0.999)), epsilon=float(np.float32(1e-7)))
LOGITS = np.random.default_rng(0).normal(scale=3.0, size=(2, 5, 4, 1))
LOSS = LossRule(1.0, 1.0, 0.0, 2.0)
MASKS = (np.random.default_rng(1).random((2, 5, 4, 1)) < 0.3).astype(float)


def rules(optimizer: OptimizerRule, **others: Any) -> TrainingRules:
    return TrainingRules(LOSS, optimizer, **others)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("role", ["kernel", "bias", "gamma", "beta"])
def test_updates_are_those_of_the_paper(role: Any, decay: float) -> None:
    """Kingma and Ba's algorithm 1 with epsilon as at the end of their section 2, and AdamW's decay."""
    rng = np.random.default_rng(2)
    weights, m, v = rng.normal(size=(3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    expected, first, second = weights.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    parameter = Parameter("x", (3, 2), role, Constant(0.0))
    for step in range(1, 8):
        gradient, rate = rng.normal(size=(3, 2)), 0.1 / step
        optimizers.adam(
            ADAM, step_scalars(rules(ADAM), step, rate, decay), parameter, weights, m, v, gradient
        )
        first = ADAM.beta1 * first + (1 - ADAM.beta1) * gradient
        second = ADAM.beta2 * second + (1 - ADAM.beta2) * gradient**2
        m_hat, v_hat = first / (1 - ADAM.beta1**step), second / (1 - ADAM.beta2**step)
        epsilon_hat = ADAM.epsilon / (1 - ADAM.beta2**step) ** 0.5
        shrunk = rate * decay * expected if role == "kernel" else 0.0
        expected = expected - shrunk - rate * m_hat / (v_hat**0.5 + epsilon_hat)
    np.testing.assert_allclose(weights, expected, rtol=2e-7)


@pytest.mark.parametrize("role", ["kernel", "gamma"])
def test_momentum_remembers_gradients_and_not_rates(role: Any) -> None:
    """The velocity is the sum of all gradients, each times momentum**age, and independent of the rates."""
    rng = np.random.default_rng(3)
    rule, parameter = SgdRule(0.75, False), Parameter("x", (3, 2), role, Constant(0.0))
    weights, velocity, gradients = rng.normal(size=(3, 2)), np.zeros((3, 2)), rng.normal(size=(6, 3, 2))
    expected = weights.copy()
    for step, gradient in enumerate(gradients, start=1):
        rate = 0.1 / step
        scalars = step_scalars(rules(rule), step, rate, 0.01)
        optimizers.sgd(rule, scalars, parameter, weights, velocity, gradient)
        seen = sum(0.75 ** (step - past) * gradients[past - 1] for past in range(1, step + 1))
        expected = expected - rate * seen - (0.01 * rate * expected if role == "kernel" else 0.0)
        np.testing.assert_allclose(velocity, seen, rtol=1e-12)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_nesterovs_weights_are_the_points_at_which_sutskever_looks_ahead() -> None:
    """The paper's equation 3, v = mu*v - rate * f'(theta + mu*v), theta += v, on f = sum of a*x**2 / 2."""
    rule, rate, a = SgdRule(0.75, True), 0.125, np.array([0.5, 1.0, 3.0])
    parameter = Parameter("x", (3,), "kernel", Constant(0.0))
    weights, velocity = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    theta, v = weights.copy(), np.zeros(3)
    for step in range(1, 20):
        np.testing.assert_allclose(weights, theta + 0.75 * v, rtol=1e-12)
        optimizers.sgd(rule, step_scalars(rules(rule), step, rate), parameter, weights, velocity, a * weights)
        v = 0.75 * v - rate * a * (theta + 0.75 * v)
        theta = theta + v
    assert abs(v).max() > 1e-3


def test_scalars_are_float32_numbers_and_the_first_step_counts_from_one() -> None:
    scalars = step_scalars(rules(ADAM), 1, 1e-3, 0.05)
    assert scalars.step == 1
    assert scalars.step_size == float(np.float32(scalars.step_size))
    assert scalars.step_size == pytest.approx(1e-3 * (1 - ADAM.beta2) ** 0.5 / (1 - ADAM.beta1), rel=1e-7)
    assert scalars.decay == pytest.approx(5e-5, rel=1e-7)
    assert step_scalars(rules(ADAM), 100_000, 1e-3).step_size == pytest.approx(1e-3, rel=1e-6)
    assert step_scalars(rules(SgdRule(0.9, False)), 1, 1e-3).step_size == float(np.float32(1e-3))


def test_a_block_s_factor_multiplies_its_rate_before_anything_is_rounded() -> None:
    of_two = rules(ADAM, rates=(("encoder", 0.1), ("mask", 3.0)))
    for step, rate, decay in ((1, 1e-3, 0.05), (7, 2.5e-4, 0.3)):
        plain, slow, fast = step_scalars(of_two, step, rate, decay).groups
        assert (plain.step_size, plain.decay) == (
            step_scalars(rules(ADAM), step, rate, decay).step_size,
            step_scalars(rules(ADAM), step, rate, decay).decay,
        )
        correction = (1 - ADAM.beta2**step) ** 0.5 / (1 - ADAM.beta1**step)
        for factor, scalars in ((0.1, slow), (3.0, fast)):
            assert scalars.step_size == float(np.float32(rate * factor * correction))
            assert scalars.decay == float(np.float32(rate * factor * decay))
            assert scalars.step == step
    assert all(one.step_size == one.decay == 0 for one in step_scalars(of_two, 3, 0.0).groups)


def test_the_average_s_share_is_large_at_the_beginning() -> None:
    averaging = rules(ADAM, average_decay=0.9)
    shares = [step_scalars(averaging, step, 1e-3).average_share for step in (1, 2, 50, 79, 80, 81, 1000)]
    expected = [9 / 11, 9 / 12, 9 / 60, 9 / 89, 0.1, 0.1, 0.1]
    assert shares == pytest.approx(expected, rel=1e-7)
    assert all(share == float(np.float32(share)) for share in shares)
    assert step_scalars(rules(ADAM), 1, 1e-3).average_share == 0.0


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


def naive_tversky(x: NDArray[Any], z: NDArray[Any]) -> float:
    p = 1 / (1 + np.exp(-x))
    found, invented, missed = (p * z).sum(), (p * (1 - z)).sum(), ((1 - p) * z).sum()
    return float(1 - (found + 0.5) / (found + 0.25 * invented + 0.75 * missed + 0.5))


def naive_lovasz(x: NDArray[Any], z: NDArray[Any]) -> float:
    """Integrate, over t > 0, the Jaccard loss if exactly the pixels with an error of at least t are wrong."""
    losses = []
    for logits, truth in zip(x, z, strict=True):
        errors = np.where(truth == 1, 1 - logits, 1 + logits)
        levels = np.unique(np.append(errors[errors > 0], 0.0))
        jaccard = [(errors >= t).sum() / ((errors >= t) | (truth == 1)).sum() for t in levels[1:]]
        losses.append(float(np.sum(np.diff(levels) * jaccard)))
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("ours", "naive"),
    [
        (losses.bce, naive_bce),
        (losses.dice, naive_dice),
        (lambda x, z: losses.focal(x, z, 1.5), naive_focal),
        (lambda x, z: losses.tversky(x, z, 0.25, 0.75), naive_tversky),
        (losses.lovasz, naive_lovasz),
    ],
    ids=["bce", "dice", "focal", "tversky", "lovasz"],
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


def test_tversky_with_halves_is_dice() -> None:
    for mine, dice in zip(losses.tversky(LOGITS, MASKS, 0.5, 0.5), losses.dice(LOGITS, MASKS), strict=True):
        np.testing.assert_allclose(mine, dice, rtol=1e-12)


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_lovasz_of_an_image_of_one_class(truth: float) -> None:
    """With no positive pixel, only the largest error counts; with only positive ones, the mean error."""
    value, gradient = losses.lovasz(LOGITS, np.full_like(MASKS, truth))
    assert value == pytest.approx(naive_lovasz(LOGITS, np.full_like(MASKS, truth)), rel=1e-12)
    worst = LOGITS.reshape(2, -1).argmax(axis=1)
    wanted = np.where(LOGITS < 1, -1 / 40, 0.0)
    if truth == 0:
        wanted = np.zeros_like(LOGITS)
        wanted.reshape(2, -1)[[0, 1], worst] = 0.5
    np.testing.assert_allclose(gradient, wanted, rtol=1e-12)


def test_lovasz_takes_pixels_of_equal_error_as_they_lie() -> None:
    """At logits of 0 every error is 1, and the Jaccard loss rises to 1/3, 2/3, 3/3 and 4/4."""
    masks = np.reshape([0.0, 1.0, 1.0, 0.0], (1, 2, 2, 1))
    value, gradient = losses.lovasz(np.zeros((1, 2, 2, 1)), masks)
    assert value == pytest.approx(1.0)
    np.testing.assert_allclose(gradient.ravel(), [1 / 3, -1 / 3, -1 / 3, 0.0], rtol=1e-12)
    sorted_truth_first, _ = losses.lovasz(np.zeros((1, 2, 2, 1)), masks[:, ::-1, ::-1])
    assert sorted_truth_first == pytest.approx(1.0)


def test_lovasz_has_a_slope_that_ends_where_the_error_does() -> None:
    value, gradient = losses.lovasz(
        np.reshape([1.0, -1.0, 2.0, -3.0], (1, 4, 1, 1)), np.reshape([1, 0, 1, 0], (1, 4, 1, 1))
    )
    assert value == 0.0
    assert not gradient.any()


def test_existence_is_the_cross_entropy_of_any_positive_pixel() -> None:
    """One pixel of the first mask is positive, none of the second, all of the third."""
    rule, logits = LossRule(1.0, 0.0, 0.0, 2.0, existence=2.5), np.reshape([0.0, 3.0, -2.0], (3, 1, 1, 1))
    masks = np.zeros((3, 4, 5, 1))
    masks[0, 3, 1], masks[2] = 1.0, 1.0
    truth = np.reshape([1.0, 0.0, 1.0], (3, 1, 1, 1))
    value, gradient = losses.existence(rule, logits, masks)
    assert value == pytest.approx(2.5 * naive_bce(logits, truth), rel=1e-12)
    for index in range(3):
        there, back = logits.copy(), logits.copy()
        there[index] += 1e-5
        back[index] -= 1e-5
        slope = 2.5 * (naive_bce(there, truth) - naive_bce(back, truth)) / 2e-5
        assert gradient[index, 0, 0, 0] == pytest.approx(slope, rel=1e-6)
    far, slope = losses.existence(rule, np.full((3, 1, 1, 1), 1e4), masks)
    assert far == pytest.approx(2.5 * 1e4 / 3)
    assert np.isfinite(slope).all()


def test_parts_of_a_loss_are_those_of_a_weight() -> None:
    assert LossRule(1.0, 0.5, 0.0, 2.0).parts() == [(1.0, "bce", ()), (0.5, "dice", ())]
    assert LossRule(1.0, 0.5, 0.0, 2.0).in_words(head=False) == "bce + 0.5 dice"
    assert (
        LossRule(3.0, 0.0, 4.0, 2.0, existence=2.5).in_words(head=True) == "3 bce + 4 focal + 2.5 existence"
    )
    focal = LossRule(0.0, 0.0, 0.25, 3.0, tversky=0.5, lovasz=2.0)
    assert focal.parts() == [(0.25, "focal", (3.0,)), (0.5, "tversky", (0.3, 0.7)), (2.0, "lovasz", ())]
