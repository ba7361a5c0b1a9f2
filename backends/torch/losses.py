"""The losses of `core.backend.training_rules` in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from backends.torch.framework import torch
from backends.torch.operations import Tensor
from core.backend.outputs import Outputs
from core.backend.training_rules import LossRule


def bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean binary cross-entropy."""
    return torch.mean(_softplus(logits) - logits * masks)


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 less the soft Dice over the batch, with smoothing 1."""
    p = torch.sigmoid(logits)
    overlap = 2 * torch.sum(p * masks) + 1
    return 1 - overlap / (torch.sum(p) + torch.sum(masks) + 1)


def focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """Return the mean cross-entropy with each pixel weighted by its error, to the power `gamma`."""
    x = logits * (2 * masks - 1)
    return torch.mean(torch.exp(-gamma * _softplus(x)) * _softplus(-x))


def tversky(logits: Tensor, masks: Tensor, alpha: float, beta: float) -> Tensor:
    """Return 1 less the soft Tversky index over the batch, with smoothing 1.

    `alpha` weights false positives, `beta` false negatives.
    """
    p = torch.sigmoid(logits)
    found = 2 * torch.sum(p * masks) + 1
    false = alpha * torch.sum(p * (1 - masks)) + beta * torch.sum((1 - p) * masks)
    return 1 - found / (found + 2 * false)


def lovasz(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of the images' Lovasz hinges. The stable sort keeps pixels of equal error in order."""
    truth = torch.flatten(masks, 1)
    errors = 1 - torch.flatten(logits, 1) * (2 * truth - 1)
    order = torch.argsort(errors.detach(), dim=1, descending=True, stable=True)
    steps = _jaccard_steps(torch.gather(truth, 1, order))
    weights = torch.empty_like(steps).scatter_(1, order, steps)
    return torch.mean(torch.sum(torch.relu(errors) * weights, dim=1))


def total(rule: LossRule, logits: Outputs, masks: Tensor) -> Tensor:
    """Return the weighted sum of the rule's losses, and of the existence head's if there are its logits."""
    losses: dict[str, Callable[..., Tensor]] = {
        "bce": bce,
        "dice": dice,
        "focal": focal,
        "tversky": tversky,
        "lovasz": lovasz,
    }
    parts = [
        weight * losses[name](logits.masks, masks, *constants) for weight, name, constants in rule.parts()
    ]
    if logits.existence is not None:
        truth = torch.amax(masks, dim=(1, 2, 3), keepdim=True)
        parts.append(rule.existence * bce(logits.existence, truth))
    return sum(parts)


def _jaccard_steps(truth: Tensor) -> Tensor:
    """Return what each pixel adds to the Jaccard loss; (N, pixels), sorted from the largest error down."""
    # These sums are of integers, since PyTorch has no deterministic running sum of floats on a GPU.
    found = torch.cumsum(truth.long(), dim=1)
    before = torch.arange(truth.shape[1], device=truth.device)
    positives, earlier = found[:, -1:], found - truth.long()
    left, union = (positives - earlier).to(truth.dtype), (positives + before - earlier).to(truth.dtype)
    # In an image without truth the union before the first pixel is 0; this pixel adds the whole loss.
    least = torch.clamp(union, min=1)
    steps = torch.where(truth > 0, 1 / least, left / (least * (union + 1)))
    return torch.where(union > 0, steps, 1.0)


def _softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), or x from 40 on. PyTorch's default of 20 is off by 1e-10 in float64."""
    return torch.nn.functional.softplus(x, threshold=40)
