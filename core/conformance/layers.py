"""Checks of the operations that networks from the literature are made of, compared with the reference.

Each check is a small network with one thing in it: groups, dilation, padding, order, activations, residual
blocks, pools, upsampling, scaled inputs. Sizes are odd, even and prime, since a pad at the wrong side shows
there. Values are drawn so that kinks and equal maxima are met where they matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.contract import Precision
from core.conformance.cases import Case, make_case
from core.conformance.numbers import agreement_check
from core.conformance.random_networks import random_literature_case
from core.conformance.suite import Check

_FLOAT32 = frozenset({"groups", "padding", "residual blocks", "upsampling", "input", "whole networks"})
"""Subjects that are checked in float32 too: those whose sums differ from those of other networks."""

SIZES = ((11, 14), (10, 13), (12, 9))
_MASK: dict[str, Any] = {"name": "mask", "kind": "output", "kernel": 2, "stride": 1}
_FIRST: dict[str, Any] = {"name": "first", "kind": "conv", "filters": 6, "stride": 1}
_KERNELS_AND_STRIDES = ((1, 1), (1, 2), (2, 2), (3, 1), (3, 2), (5, 2), (3, 3))


def layer_checks() -> list[Check]:
    """Return all of them."""
    return [
        *_convolutions(),
        *_activations(),
        *_residual_blocks(),
        *_pools(),
        *_upsampling(),
        *_inputs(),
        *_outputs(),
        *_random_networks(),
        *_checks("whole networks", "operations of networks from the literature", every_operation()),
    ]


def _checks(subject: str, name: str, case: Case) -> list[Check]:
    precisions: tuple[Precision, ...] = ("float64", "float32") if subject in _FLOAT32 else ("float64",)
    return [agreement_check(subject, name, case, precision) for precision in precisions]


def _convolutions() -> list[Check]:
    checks = []
    for padding in ("same", "symmetric", "valid"):
        for number, (kernel, stride) in enumerate(_KERNELS_AND_STRIDES):
            height, width = SIZES[number % 3]
            block = {"name": "there", "kind": "conv", "filters": 4, "kernel": kernel, "stride": stride}
            # Not the first block: its image needs a gradient.
            blocks = [_FIRST, block | {"padding": padding}, _MASK]
            case = make_case(blocks, height, width, batch_norm=False)
            name = f"{padding}, kernel {kernel}, stride {stride}, {height}x{width}"
            checks += _checks("padding", name, case)
    groups = ((2, 6, 4), (3, 6, 9), (6, 6, 6), (6, 6, 12))  # groups, channels in and out
    for number, (parts, channels, filters) in enumerate(groups):
        for kernel, stride in ((3, 1), (3, 2), (5, 2), (1, 1)):
            height, width = SIZES[(number + kernel) % 3]
            block = {"name": "there", "kind": "conv", "filters": filters, "kernel": kernel, "stride": stride}
            blocks = [
                _FIRST | {"filters": channels},
                block | {"groups": parts, "padding": "symmetric"},
                _MASK,
            ]
            name = f"{parts} of {channels} to {filters}, kernel {kernel}, stride {stride}"
            checks += _checks("groups", name, make_case(blocks, height, width))
    for kernel, dilation, padding in ((3, 2, "same"), (3, 3, "symmetric"), (2, 2, "valid"), (5, 2, "same")):
        block = {"name": "there", "kind": "conv", "filters": 4, "kernel": kernel, "stride": 1}
        blocks = [_FIRST, block | {"dilation": dilation, "padding": padding}, _MASK]
        checks += _checks("dilation", f"{padding}, kernel {kernel}, {dilation}", make_case(blocks, 11, 14))
    depthwise = {"name": "there", "kind": "conv", "filters": 6, "groups": 6, "dilation": 2, "stride": 1}
    checks += _checks("dilation", "of each channel alone", make_case([_FIRST, depthwise, _MASK], 12, 9))
    for order in ("activation_norm", "norm_activation"):
        for bias in (True, False):
            hidden = [_FIRST, {"name": "second", "kind": "transpose", "filters": 3}, _MASK]
            name = f"{order}, {'with' if bias else 'without'} bias"
            checks += _checks("order and bias", name, make_case(hidden, 5, 6, order=order, bias=bias))
    return checks


def _activations() -> list[Check]:
    """At the kinks too: a single weight of 1 gives them numbers of -3, 0, 3, 6 and 9."""
    checks = []
    for activation in ("relu6", "leaky_relu", "elu", "silu", "none"):
        blocks = [_FIRST, _FIRST | {"name": "second"}, _MASK]
        checks += _checks("activations", activation, make_case(blocks, 9, 12, activation=activation))
        one = {"name": "one", "kind": "conv", "filters": 1, "kernel": 1, "stride": 1, "bias": False}
        case = make_case([one, _MASK], 9, 12, activation=activation, batch_norm=False)
        for images, _ in case.batches:
            images[...] = np.round(4 * images) * 3 - 3
        case.state["one/kernel"][...] = 1.0
        checks += _checks("activations", f"{activation}, at its kinks", case)
    return checks


def _residual_blocks() -> list[Check]:
    residual = {"name": "there", "kind": "residual"}
    forms: list[tuple[str, dict[str, Any]]] = [
        ("basic", {"form": "basic", "filters": 6}),
        ("basic, another shape", {"form": "basic", "filters": 4, "stride": 2}),
        ("basic, symmetric", {"form": "basic", "filters": 8, "stride": 2, "padding": "symmetric"}),
        ("basic, with bias", {"form": "basic", "filters": 6, "bias": True}),
        ("bottleneck", {"form": "bottleneck", "filters": 8, "width": 3}),
        (
            "bottleneck, the first strides",
            {"form": "bottleneck", "filters": 8, "stride": 2, "stride_at": "first"},
        ),
        ("bottleneck, groups", {"form": "bottleneck", "filters": 6, "width": 4, "groups": 2, "stride": 2}),
        ("bottleneck, squeeze", {"form": "bottleneck", "filters": 6, "squeeze": 2}),
        ("inverted", {"form": "inverted", "filters": 6, "activation": "relu6"}),
        ("inverted, another shape", {"form": "inverted", "filters": 4, "stride": 2, "kernel": 5}),
        ("inverted, no expansion", {"form": "inverted", "filters": 6, "width": 6, "activation": "silu"}),
        ("inverted, squeeze", {"form": "inverted", "filters": 6, "squeeze": 3, "activation": "silu"}),
    ]
    checks = []
    for number, (name, settings) in enumerate(forms):
        blocks = [_FIRST, residual | settings, _MASK]
        checks += _checks("residual blocks", name, make_case(blocks, *SIZES[number % 3]))
    return checks


def _pools() -> list[Check]:
    checks = []
    for mode in ("max", "average"):
        for padding in ("same", "symmetric", "valid", "ceil"):
            for number, (kernel, stride) in enumerate(((2, 2), (3, 2), (3, 1), (2, 3), (5, 3))):
                if padding == "symmetric" and kernel == 2:
                    continue
                settings = {"mode": mode, "kernel": kernel, "stride": stride, "padding": padding}
                blocks = [_FIRST, {"name": "there", "kind": "pool"} | settings, _MASK]
                height, width = SIZES[number % 3]
                name = f"{padding}, kernel {kernel}, stride {stride}, {height}x{width}"
                checks += _checks(f"{mode} pool", name, make_case(blocks, height, width))
    return [*checks, *_ties()]


def _ties() -> list[Check]:
    """Windows with several equal maxima, whose gradient goes to the first, in row order."""
    checks = []
    one = {"name": "one", "kind": "conv", "filters": 2, "kernel": 1, "stride": 1}
    for kernel, stride, padding in ((2, 2, "valid"), (3, 2, "symmetric"), (3, 1, "same"), (3, 2, "ceil")):
        pool = {"name": "there", "kind": "pool", "kernel": kernel, "stride": stride, "padding": padding}
        last = {"name": "mask", "kind": "output", "kernel": 3, "stride": 1}
        before = {"name": "zero", "kind": "conv", "filters": 3, "kernel": 3, "stride": 1}
        case = make_case([before, one, pool, last], 11, 14, batch_norm=False)
        for images, _ in case.batches:
            images[...] = np.round(2 * images)
        # Most pixels are equal behind a ReLU; gradients of `zero` tell the first of a window from the others.
        case.state["zero/kernel"][...] = np.round(2 * case.state["zero/kernel"])
        case.state["zero/bias"][...] = 0.25
        checks += _checks("max pool", f"equal maxima, {padding}, kernel {kernel}, stride {stride}", case)
    return checks


def _upsampling() -> list[Check]:
    checks = []
    for method in ("nearest", "bilinear"):
        for factor, (height, width) in ((2, (5, 6)), (3, (4, 7)), (4, (3, 2)), (2, (1, 3)), (3, (4, 1))):
            blocks = [_FIRST, {"name": "up", "kind": "upsample", "factor": factor, "method": method}, _MASK]
            checks += _checks(
                "upsampling", f"{method}, {factor} times {height}x{width}", make_case(blocks, height, width)
            )
    return checks


def _inputs() -> list[Check]:
    three = {"channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    scaled = {"mean": [0.5], "std": [0.25]}
    wide = {"name": "first", "kind": "conv", "filters": 4, "kernel": 5}
    return [
        check
        for name, settings in (("three channels", three), ("one channel, scaled", scaled))
        for check in _checks("input", name, make_case([wide, _MASK], 11, 14, input=settings))
    ]


def _outputs() -> list[Check]:
    last = {"name": "mask", "kind": "output", "stride": 1, "transposed": False}
    branch = {"name": "branch", "kind": "conv", "filters": 2, "stride": 1, "source": "first"}
    joined = {"name": "join", "kind": "pointwise", "filters": 3, "skip": "second"}
    second = {"name": "second", "kind": "conv", "filters": 5, "stride": 1}
    return [
        *_checks("output block", "a convolution", make_case([_FIRST, last], 9, 12)),
        *_checks(
            "skip", "two branches from a source", make_case([_FIRST, second, branch, joined, last], 9, 12)
        ),
    ]


def _random_networks() -> list[Check]:
    subject = "random networks from the literature"
    cases = ((seed, random_literature_case(seed)) for seed in range(12))
    return [agreement_check(subject, f"number {seed}", case, "float64") for seed, case in cases]


def every_operation() -> Case:
    """Return a case with all of these operations and activations in one network."""
    blocks: list[dict[str, Any]] = [
        {"name": "first", "kind": "conv", "filters": 6, "stride": 2, "kernel": 5, "padding": "symmetric"},
        {"name": "cut", "kind": "conv", "filters": 6, "stride": 1, "kernel": 2, "padding": "valid"},
        {"name": "leaky", "kind": "pointwise", "activation": "leaky_relu"},
        {"name": "basic", "kind": "residual", "form": "basic", "filters": 6},
        {"name": "largest", "kind": "pool", "kernel": 3, "padding": "symmetric"},
        {"name": "split", "kind": "residual", "form": "bottleneck", "filters": 8, "groups": 2, "squeeze": 3},
        {"name": "mean", "kind": "pool", "mode": "average", "kernel": 3, "padding": "ceil"},
        {"name": "inverted", "kind": "residual", "form": "inverted", "filters": 8, "activation": "silu"},
        {"name": "wide", "kind": "conv", "filters": 5, "stride": 1, "dilation": 2, "activation": "elu"},
        {"name": "smooth", "kind": "upsample", "method": "bilinear"},
        {"name": "groups", "kind": "conv", "filters": 10, "groups": 5, "activation": "relu6"},
        {"name": "tiled", "kind": "upsample", "factor": 3},
        {"name": "mask", "kind": "output", "stride": 1, "transposed": False},
    ]
    scaled = {"channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return make_case(blocks, 38, 47, input=scaled, order="norm_activation")
