"""The conformance suite must detect each typical error of such toolkits.

Every mutant (`mutants.py`) is the reference with one error. Mutants of the loader are in
`test_loader_mutants.py`. The test run ends with the list of mutants and what detected them
(tests/conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mutants import (
    LAYER_MUTANTS,
    PARTIAL_MUTANTS,
    ActivationsInBfloat16,
    AddedPixelByPixel,
    BackwardNotRounded,
    BesselCorrected,
    ClippedWhileScaled,
    CorrectionOffByOne,
    DecayInTheGradient,
    DecayOfBatchNorm,
    DecayOfBiases,
    DecayTwice,
    DividedTwiceByTheBatch,
    DropoutScaledAtInference,
    EmptyTruthLeftOut,
    EpsilonOutsideTheCorrection,
    ExistenceDetached,
    GoodStepsNotInARow,
    GroupsNotRounded,
    KernelFlipped,
    KernelTransposed,
    LabelOfTheNextImage,
    LastOfEqualsFirst,
    Mutant,
    NesterovOfTheOldVelocity,
    NoSlopeAtZero,
    NotUnscaled,
    OperandsCutOff,
    OperandsCutOffToTf32,
    OperandsNotRounded,
    OverflowNotSkipped,
    OverTheBatch,
    RateInTheVelocity,
    ResultNotRounded,
    ResultRoundedToTf32,
    ScaleNeverFalls,
    ShareOfPositivePixels,
    StatisticsOfSkippedUpdates,
    StepBehind,
    SubnormalsFlushed,
    WeightsInBfloat16,
    changed_sgd,
    crop_on_the_other_side,
    each,
    existence_of_the_first_block,
    existence_unweighted,
    momentum_inverted,
    padding_shifted,
    tversky_exchanged,
)

from backends.reference.model import ReferenceModel
from core.conformance import Check, all_checks, examine
from core.network.plan import BatchNorm, Conv2D, ConvTranspose2D

BFLOAT16_MUTANTS: dict[str, tuple[str, type[ReferenceModel]]] = {
    "weights kept in bfloat16": ("products in bfloat16", WeightsInBfloat16),
    "operands not rounded": ("products in bfloat16", OperandsNotRounded),
    "operands cut off": ("products in bfloat16", OperandsCutOff),
    "result not rounded": ("products in bfloat16", ResultNotRounded),
    "gradients not rounded": ("products in bfloat16", BackwardNotRounded),
    "activations in bfloat16": ("products in bfloat16", ActivationsInBfloat16),
    "operands not rounded, in a network": ("convolution", OperandsNotRounded),
    "result not rounded, in a network": ("transposed convolution", ResultNotRounded),
    "gradients not rounded, in a network": ("SGD", BackwardNotRounded),
    "convolutions with groups not rounded": ("products in bfloat16", GroupsNotRounded),
    "weights kept in bfloat16, in training": ("Adam", WeightsInBfloat16),
}

FLOAT16_MUTANTS: dict[str, tuple[str, type[ReferenceModel]]] = {
    "operands not rounded, in float16": ("products in float16", OperandsNotRounded),
    "result not rounded, in float16": ("products in float16", ResultNotRounded),
    "gradients not rounded, in float16": ("products in float16", BackwardNotRounded),
    "convolutions with groups not rounded, in float16": ("products in float16", GroupsNotRounded),
    "subnormal numbers flushed": ("products in float16", SubnormalsFlushed),
    "gradients not divided by the scale": ("loss scale", NotUnscaled),
    "clipping of scaled gradients": ("loss scale", ClippedWhileScaled),
    "an overflow that is not skipped": ("loss scale", OverflowNotSkipped),
    "statistics of skipped updates": ("loss scale", StatisticsOfSkippedUpdates),
    "a scale that never falls": ("loss scale", ScaleNeverFalls),
    "good steps not in a row": ("loss scale", GoodStepsNotInARow),
}

TF32_MUTANTS: dict[str, tuple[str, type[ReferenceModel]]] = {
    "operands not rounded, in TF32": ("products in tf32", OperandsNotRounded),
    "operands cut off, in TF32": ("products in tf32", OperandsCutOffToTf32),
    "results rounded, in TF32": ("products in tf32", ResultRoundedToTf32),
    "gradients not rounded, in TF32": ("products in tf32", BackwardNotRounded),
    "convolutions with groups not rounded, in TF32": ("products in tf32", GroupsNotRounded),
}

MIXED_MUTANTS = [
    (name, precision, *found)
    for precision, mutants in (
        ("tf32", TF32_MUTANTS),
        ("mixed_bfloat16", BFLOAT16_MUTANTS),
        ("mixed_float16", FLOAT16_MUTANTS),
    )
    for name, found in mutants.items()
]


MUTANTS: dict[str, tuple[str, Mutant]] = {
    "padding shifted by a pixel": ("convolution", Mutant(each(Conv2D, padding_shifted))),
    "crop on the other side": (
        "transposed convolution",
        Mutant(each(ConvTranspose2D, crop_on_the_other_side)),
    ),
    "kernel flipped": ("convolution", Mutant(model=KernelFlipped)),
    "kernel transposed": ("convolution", Mutant(model=KernelTransposed)),
    "running variance with Bessel's correction": ("batch norm", Mutant(model=BesselCorrected)),
    "batch norm momentum inverted": ("batch norm", Mutant(each(BatchNorm, momentum_inverted))),
    "epsilon outside the bias correction": ("Adam", Mutant(model=EpsilonOutsideTheCorrection)),
    "bias correction off by one": ("Adam", Mutant(model=CorrectionOffByOne)),
    "learning rate off by one step": ("Adam", Mutant(model=StepBehind)),
    "weight decay on biases": ("weight decay", Mutant(model=DecayOfBiases)),
    "weight decay doubled": ("weight decay", Mutant(model=DecayTwice)),
    "loss divided twice by the batch": ("losses", Mutant(model=DividedTwiceByTheBatch)),
    "weight decay on batch norm": ("weight decay", Mutant(model=DecayOfBatchNorm)),
    "weight decay in the gradient": ("weight decay", Mutant(model=DecayInTheGradient)),
    "Nesterov forgotten": ("SGD", Mutant(rules=changed_sgd(nesterov=False))),
    "Nesterov with the old velocity": ("SGD", Mutant(model=NesterovOfTheOldVelocity)),
    "momentum forgotten": ("SGD", Mutant(rules=changed_sgd(momentum=0.0))),
    "learning rate in the velocity": ("SGD", Mutant(model=RateInTheVelocity)),
    "Tversky's alpha and beta exchanged": ("losses", Mutant(rules=tversky_exchanged)),
    "Lovasz with equal errors in reverse": ("losses", Mutant(model=LastOfEqualsFirst)),
    "Lovasz over the batch": ("losses", Mutant(model=OverTheBatch)),
    "Lovasz without empty images": ("losses", Mutant(model=EmptyTruthLeftOut)),
    "gradient at logit 0": ("losses at extreme logits", Mutant(model=NoSlopeAtZero)),
    "existence without its weight": ("existence head", Mutant(rules=existence_unweighted)),
    "existence of another image's mask": ("existence head", Mutant(model=LabelOfTheNextImage)),
    "existence as a share of pixels": ("existence head", Mutant(model=ShareOfPositivePixels)),
    "existence of another block": ("existence head", Mutant(existence_of_the_first_block)),
    "existence that trains its head alone": ("existence head", Mutant(model=ExistenceDetached)),
    "dropout scaled at inference": ("dropout, masks given", Mutant(model=DropoutScaledAtInference)),
    **LAYER_MUTANTS,
    **PARTIAL_MUTANTS,
}


CHECKS = all_checks()


def of_subject(subject: str) -> list[Check]:
    return [check for check in CHECKS if check.subject == subject]


def caught(mutant: Mutant, subject: str, precision: str) -> list[str]:
    """Return the reasons of the failed checks of a subject."""
    outcomes = [examine(check, mutant) for check in of_subject(subject) if check.precision == precision]
    return [outcome.detail for outcome in outcomes if outcome.status == "failed"]


def _runs() -> list[tuple[str, str]]:
    """Return the mutants and precisions; some subjects are checked in float64 alone."""
    checked = {(check.subject, check.precision) for check in CHECKS}
    return [
        (name, precision)
        for name, (subject, _) in MUTANTS.items()
        for precision in ("float64", "float32")
        if (subject, precision) in checked
    ]


@pytest.mark.parametrize(("name", "precision"), _runs())
def test_caught(name: str, precision: str, record_property: Callable[[str, object], None]) -> None:
    subject, mutant = MUTANTS[name]
    reasons = caught(mutant, subject, precision)
    # A mutant computes wrong numbers and does not crash, so a difference must be the reason.
    telling = [reason for reason in reasons if "relative difference" in reason or "gradient is" in reason]
    assert telling, reasons
    record_property("mutant", f"{name} ({precision}): {subject}: {telling[0]}")


@pytest.mark.parametrize(("name", "precision", "subject", "model"), MIXED_MUTANTS)
def test_caught_in_mixed_precision(
    name: str,
    precision: str,
    subject: str,
    model: type[ReferenceModel],
    record_property: Callable[[str, object], None],
) -> None:
    reasons = caught(Mutant(model=model), subject, precision)
    telling = [reason for reason in reasons if "relative difference" in reason or "gradient is" in reason]
    assert telling, reasons
    record_property("mutant", f"{name} ({precision}): {subject}: {telling[0]}")


def test_sums_that_lose_digits_are_caught(record_property: Callable[[str, object], None]) -> None:
    # In float64 no digits are lost, and other checks have too few pixels to show the loss.
    reasons = caught(Mutant(model=AddedPixelByPixel), "batch norm", "float32")
    assert len(reasons) == 1
    assert "relative difference" in reasons[0]
    record_property("mutant", f"sums added pixel by pixel (float32): batch norm: {reasons[0]}")


def test_without_an_error_nothing_is_caught() -> None:
    subjects = {
        subject for subject, _ in [*MUTANTS.values(), *BFLOAT16_MUTANTS.values(), *FLOAT16_MUTANTS.values()]
    }
    for subject in subjects:
        for check in of_subject(subject):
            assert examine(check, Mutant()).status == "passed", str(check)
