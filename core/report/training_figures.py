"""Figures of the training: loss, Dice, AUROC and learning rate over the epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from core.pictures.plotting import Axes, FuncFormatter
from core.report.plots import Draw, Plot, label_axes, logarithmic_axis, nan_if_none
from core.report.svg import MUTED, PAPER, colour, drawing, line_style
from core.scoring.evaluation_record import Evaluation, MemberRecord


def loss_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw training and validation loss over the epochs."""
    if not _trained(evaluations):
        return None
    with drawing("Line chart: training loss and validation loss over the epochs.") as plot:
        values: list[float] = []
        for number, member, epochs in _curves(evaluations):
            training = [record.loss for record in member.history]
            validation = [record.validation_loss for record in member.history]
            plot.axes.plot(epochs, training, color=colour(number), linewidth=0.8, alpha=0.5)
            plot.axes.plot(epochs, validation, **line_style(number))
            _mark_epoch(plot.axes, number, member, validation)
            values += training + validation
        _scale(plot.axes, values)
        label_axes(plot.axes, "epoch", "loss")
    return Plot(
        "Loss",
        plot.svg,
        "Strong: on held-out images; faint: on training images. Dot: the checkpoint that was evaluated.",
    )


def dice_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw the Dice of the held-out images and the all-negative baseline over the epochs."""
    if not _trained(evaluations):
        return None
    with drawing("Line chart: Dice of the scored images over the epochs, with the all-empty floor.") as plot:
        for number, member, epochs in _curves(evaluations):
            dice = [record.dice for record in member.history]
            baseline = [record.dice_all_empty for record in member.history]
            positive = [nan_if_none(record.dice_positive) for record in member.history]
            plot.axes.plot(epochs, baseline, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            plot.axes.plot(epochs, positive, color=colour(number), linewidth=0.8, alpha=0.5)
            plot.axes.plot(epochs, dice, **line_style(number))
            _mark_epoch(plot.axes, number, member, dice)
        plot.axes.set_ylim(-0.02, 1.02)
        label_axes(plot.axes, "epoch", "Dice")
    return Plot(
        "Dice while training",
        plot.svg,
        "Strong: all scored images; faint: the positive ones; dashes: the floor. Counted at the network's "
        "size with a threshold of 0.5, so not the numbers above.",
    )


def auroc_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw the AUROC of the held-out images over the epochs; None if no epoch has one."""
    curves = [
        (number, member, epochs, [nan_if_none(record.auroc) for record in member.history])
        for number, member, epochs in _curves(evaluations)
    ]
    if all(math.isnan(value) for *_, values in curves for value in values):
        return None
    with drawing("Line chart: AUROC of the scored images over the epochs.") as plot:
        for number, member, epochs, values in curves:
            plot.axes.plot(epochs, values, **line_style(number))
            _mark_epoch(plot.axes, number, member, values)
        plot.axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        plot.axes.set_ylim(-0.02, 1.02)
        label_axes(plot.axes, "epoch", "AUROC")
    return Plot(
        "AUROC while training",
        plot.svg,
        "How well the highest probability of an image tells whether it has a pneumothorax; dashes: chance.",
    )


def rate_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw the learning rate over the epochs."""
    if not _trained(evaluations):
        return None
    with drawing("Line chart: the learning rate over the epochs.") as plot:
        values: list[float] = []
        for number, member, epochs in _curves(evaluations):
            rates = [record.learning_rate for record in member.history]
            plot.axes.plot(epochs, rates, **line_style(number))
            values += rates
        _scale(plot.axes, values)
        label_axes(plot.axes, "epoch", "learning rate")
        if plot.axes.get_yscale() == "linear":
            plot.axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.3g}"))
    return Plot("Learning rate", plot.svg, "Of each epoch's last step.")


def _trained(evaluations: Sequence[Evaluation]) -> bool:
    return any(member.history for model in evaluations for member in model.origin.members)


def _curves(evaluations: Sequence[Evaluation]) -> Iterator[tuple[int, MemberRecord, list[int]]]:
    """Yield colour number, member and epochs of each model, or of each member if there is one model."""
    for number, model in enumerate(evaluations):
        for place, member in enumerate(model.origin.members):
            if member.history:
                epochs = [record.epoch for record in member.history]
                yield (place if len(evaluations) == 1 else number), member, epochs


def _mark_epoch(axes: Axes, number: int, member: MemberRecord, values: Sequence[float]) -> None:
    """Mark the epoch of the evaluated checkpoint with a dot."""
    for record, value in zip(member.history, values, strict=True):
        if record.epoch == member.epoch:
            axes.plot(
                [record.epoch], [value], "o", color=colour(number), markersize=4.5, markeredgecolor=PAPER
            )


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Start the y axis at zero; make it logarithmic if the values span more than a factor of thirty."""
    least, most = min(values), max(values)
    if 0 < least * 30 < most:
        logarithmic_axis(axes, "y")
    elif least >= 0 < most:
        axes.set_ylim(0, most * 1.05)


TRAINING: tuple[Draw, ...] = (loss_curves, dice_curves, auroc_curves, rate_curves)
