"""The losses of `core.backend.training_rules` as MXNet symbols: values and gradients for the logits.

Gluon's `SigmoidBCELoss` is not used: at a logit of exactly 0 its gradient is -z instead of 1/2 - z.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.mxnet import operations
from backends.mxnet.framework import mx
from backends.mxnet.gradients import Symbol, gradient
from core.backend.outputs import Outputs
from core.backend.training_rules import LossRule

Loss = tuple[Symbol, Symbol]
"""The value of a loss, and its gradient for the logits."""


def bce(logits: Symbol, masks: Symbol, dtype: str) -> Loss:
    """Return the mean binary cross-entropy."""
    slope = operations.sigmoid(logits) - masks
    return _mean(_softplus(logits) - logits * masks), _divided(slope, _size(logits), dtype)


def dice(logits: Symbol, masks: Symbol, dtype: str) -> Loss:
    """Return 1 less the soft Dice over the batch, with smoothing 1."""
    p = operations.sigmoid(logits)
    overlap, total = 2 * _sum(p * masks) + 1, _sum(p) + _sum(masks) + 1
    return 1 - overlap / total, _through_sigmoid(p, masks, -2 / total, overlap / total**2, dtype)


def focal(logits: Symbol, masks: Symbol, dtype: str, gamma: float) -> Loss:
    """Return the mean cross-entropy with each pixel weighted by its error, to the power `gamma`."""
    sign = 2 * masks - 1
    x = logits * sign
    weight, loss = mx.sym.exp(-gamma * _softplus(x)), _softplus(-x)
    slope = weight * (gamma * operations.sigmoid(x) * loss + operations.sigmoid(-x))
    return _mean(weight * loss), _divided(-slope * sign, _size(logits), dtype)


def tversky(logits: Symbol, masks: Symbol, dtype: str, alpha: float, beta: float) -> Loss:
    """Return 1 less the soft Tversky index over the batch, with smoothing 1.

    `alpha` weights false positives, `beta` false negatives.
    """
    p = operations.sigmoid(logits)
    found = 2 * _sum(p * masks) + 1
    total = found + 2 * (alpha * _sum(p * (1 - masks)) + beta * _sum((1 - p) * masks))
    slope = 2 * ((1 - alpha - beta) * found - total) / total**2
    return 1 - found / total, _through_sigmoid(p, masks, slope, 2 * alpha * found / total**2, dtype)


def lovasz(logits: Symbol, masks: Symbol, dtype: str) -> Loss:
    """Return the mean of the images' Lovasz hinges; pixels of equal error keep the order of their index."""
    truth = mx.sym.reshape(masks, shape=(0, -1))
    sign = 2 * truth - 1
    errors = 1 - mx.sym.reshape(logits, shape=(0, -1)) * sign
    order = _descending_order(errors)
    weights, falling = _jaccard_steps(_take(truth, order)), _take(errors, order)
    value = mx.sym.sum(mx.sym.cast(mx.sym.relu(falling) * weights, dtype="float64"), axis=1)
    slope, _ = gradient("take", falling, weights * (falling > 0), order)
    slope = mx.sym.reshape_like(mx.sym.reshape_like(slope, sign) * -sign, logits)
    return mx.sym.mean(value), _divided(slope, mx.sym.sum(mx.sym.ones_like(value)), dtype)


def total(rule: LossRule, logits: Outputs, masks: Symbol, dtype: str) -> tuple[Symbol, Outputs]:
    """Return the weighted sum of the rule's losses, and its gradients for the logits.

    It has the existence head's part if there are its logits.
    """
    losses: dict[str, Callable[..., Loss]] = {
        "bce": bce,
        "dice": dice,
        "focal": focal,
        "tversky": tversky,
        "lovasz": lovasz,
    }
    parts = [
        (weight, losses[name](logits.masks, masks, dtype, *constants))
        for weight, name, constants in rule.parts()
    ]
    values = [weight * loss for weight, (loss, _) in parts]
    slopes, of_existence = mx.sym.add_n(*(weight * slope for weight, (_, slope) in parts)), None
    if logits.existence is not None:
        loss, slope = bce(logits.existence, mx.sym.max(masks, axis=(1, 2, 3), keepdims=True), dtype)
        values.append(rule.existence * loss)
        of_existence = rule.existence * slope
    return mx.sym.add_n(*values), Outputs(slopes, of_existence)


def _through_sigmoid(p: Symbol, masks: Symbol, slope: Symbol, offset: Symbol, dtype: str) -> Symbol:
    """Return the gradient for the logits, given that for p: slope * mask + offset, with two numbers."""
    d_p = mx.sym.broadcast_add(mx.sym.broadcast_mul(masks, _number(slope, dtype)), _number(offset, dtype))
    return d_p * p * (1 - p)


def _divided(x: Symbol, number: Symbol, dtype: str) -> Symbol:
    return mx.sym.broadcast_div(x, _number(number, dtype))


def _number(x: Symbol, dtype: str) -> Symbol:
    """Cast a float64 number to the type of an (N, 1, H, W), and give it as many axes."""
    return mx.sym.cast(mx.sym.reshape(x, shape=(1, 1, 1, 1)), dtype=dtype)


def _descending_order(errors: Symbol) -> Symbol:
    """Return the indices in the flattened array of each row's pixels, from the largest error to the smallest.

    The result is (N, pixels), float64.

    MXNet's sort is not stable, and NaN may end its process. So NaN sorts as 0. The rank of each error is
    sorted once more with the pixel's index as its fraction, which is exact up to 2**25 pixels.
    """
    errors = mx.sym.cast(errors, dtype="float64")
    errors = mx.sym.where(errors == errors, errors, mx.sym.zeros_like(errors))
    place = mx.sym.reshape(mx.sym.contrib.arange_like(errors, axis=1), shape=(1, -1))
    place = mx.sym.broadcast_like(place, errors)
    first = mx.sym.contrib.arange_like(errors) - place
    order = mx.sym.argsort(errors, axis=1, is_ascend=False, dtype="float64")
    falling = _take(errors, first + order)
    rank = mx.sym.cumsum(falling != _take(falling, first + mx.sym.relu(place - 1)), axis=1)
    both = mx.sym.sort(rank + order * 2.0**-25, axis=1)
    return first + (both - mx.sym.floor(both)) * 2.0**25


def _take(x: Symbol, indices: Symbol) -> Symbol:
    """Return the elements of the flattened array at these indices."""
    return mx.sym.take(mx.sym.reshape(x, shape=(-1,)), indices)


def _jaccard_steps(truth: Symbol) -> Symbol:
    """Return what each pixel adds to the Jaccard loss; (N, pixels), sorted from the largest error down."""
    positives = mx.sym.sum(truth, axis=1, keepdims=True)
    left = mx.sym.broadcast_sub(positives, mx.sym.cumsum(truth, axis=1) - truth)
    union = mx.sym.broadcast_add(positives, mx.sym.cumsum(1 - truth, axis=1) - (1 - truth))
    # In an image without truth the union before the first pixel is 0; this pixel adds the whole loss.
    least = mx.sym.maximum(union, 1)
    steps = mx.sym.where(truth > 0, 1 / least, left / (least * (union + 1)))
    return mx.sym.where(union > 0, steps, mx.sym.ones_like(steps))


def _sum(x: Symbol) -> Symbol:
    """Return the sum of an (N, 1, H, W) in float64, (1,), from the float32 sums of rows.

    These are products, which are much faster than `mx.sym.sum` and lose no more digits.
    """
    rows, ones = _rows_and_ones(x)
    return _total(mx.sym.dot(rows, ones))


def _mean(x: Symbol) -> Symbol:
    """Return the mean of an (N, 1, H, W) in float64, (1,)."""
    return _sum(x) / _size(x)


def _size(x: Symbol) -> Symbol:
    """Return the number of elements of an (N, 1, H, W) in float64, (1,)."""
    rows, ones = _rows_and_ones(x)
    return _total(mx.sym.ones_like(mx.sym.slice_axis(rows, axis=1, begin=0, end=1))) * _total(ones)


def _total(x: Symbol) -> Symbol:
    return mx.sym.sum(mx.sym.cast(x, dtype="float64"))


def _rows_and_ones(x: Symbol) -> tuple[Symbol, Symbol]:
    """Return all rows, (N * H, W), and as many ones as a row has pixels, (W,)."""
    rows = mx.sym.reshape(mx.sym.reshape(x, shape=(-3, 0, 0)), shape=(-3, 0))
    first = mx.sym.slice_axis(rows, axis=0, begin=0, end=1)
    return rows, mx.sym.reshape(mx.sym.ones_like(first), shape=(-1,))


def _softplus(x: Symbol) -> Symbol:
    return mx.sym.Activation(x, act_type="softrelu")
