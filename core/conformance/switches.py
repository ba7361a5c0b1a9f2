"""Checks at the sizes where a backend changes between two ways of computing: below, at and above each.

The backend declares these sizes (`core.backend.kernel_switches`); `tests/parity/test_switches.py` finds
undeclared ones in the source. A check also requires that the switch was asked about values below, at and
above its bound, so that a case that misses its switch is noticed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np

from core.backend.contract import Implementation, Precision
from core.backend.devices import OnDevice
from core.backend.kernel_switches import Quantity, Switch, record_switch_values
from core.conformance.cases import Case, Nonconformity, make_case, require_agreement
from core.conformance.suite import BackendCaller, Check
from core.conformance.training import train
from core.tolerance.budget import ArraysByKind

SUBJECT = "both sides of switches"

ValuesBySwitch = dict[str, set[int]]


def switch_checks() -> list[Check]:
    """Return a check for each quantity and precision."""
    precisions: tuple[Precision, ...] = ("float64", "float32")
    return [_check(quantity, precision) for precision in precisions for quantity in get_args(Quantity)]


def declared_switches(implementation: Implementation) -> tuple[Switch, ...]:
    """Return the switches of a backend; a module without the function `switches` has none."""
    found: Callable[[], tuple[Switch, ...]] = getattr(implementation, "switches", tuple)
    return tuple(found())


def _device(implementation: Implementation) -> str:
    return implementation.device if isinstance(implementation, OnDevice) else "cpu"


def _check(quantity: Quantity, precision: Precision) -> Check:
    def run(backend: BackendCaller) -> None:
        switches = [switch for switch in backend.call(declared_switches) if switch.quantity == quantity]
        on_cpu = backend.call(_device) == "cpu"
        for bound in sorted({switch.bound for switch in switches}):
            recorded: ValuesBySwitch = {}
            for name, case in _CASES[quantity](bound):
                try:
                    found, values = backend.call(_train, case, precision)
                    require_agreement(train, found, case, precision)
                except Nonconformity as reason:
                    raise Nonconformity(f"{quantity} {bound}, with {name}: {reason}") from reason
                for switch, numbers in values.items():
                    recorded.setdefault(switch, set()).update(numbers)
            # On a GPU those of the CPU's kernels are not asked.
            asked = switches if on_cpu else [switch for switch in switches if switch.name in recorded]
            _require_sides([switch for switch in asked if switch.bound == bound], recorded, precision)

    return Check(SUBJECT, quantity, precision, run)


def _train(
    implementation: Implementation, case: Case, precision: Precision
) -> tuple[list[ArraysByKind], ValuesBySwitch]:
    with record_switch_values() as recorded:
        return train(implementation, case, precision), recorded


def _require_sides(switches: list[Switch], recorded: ValuesBySwitch, precision: Precision) -> None:
    for switch in switches:
        numbers = sorted(recorded.get(switch.name, ()))
        if switch.by_data or (precision == "float64" and not numbers):  # a switch that only float32 uses
            continue
        sides = [[n for n in numbers if n < switch.bound], [n for n in numbers if n > switch.bound]]
        if not all(sides) or switch.bound not in numbers:
            raise Nonconformity(
                f"{switch.name}: the suite met {numbers}, but needs values below, at and above {switch.bound}"
            )


def _around(bound: int) -> list[int]:
    return [number for number in (bound - 1, bound, bound + 1) if number > 0]


def _pixels(bound: int, batches: tuple[int, ...] = (1, 1)) -> Iterator[tuple[str, Case]]:
    """Yield batches of images around the given number of pixels, as nearly square as possible."""
    for pixels in _around(bound):
        height = max(side for side in range(1, math.isqrt(pixels) + 1) if pixels % side == 0)
        first = {"name": "first", "kind": "conv", "filters": 3, "kernel": 3, "stride": 1}
        mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
        yield f"{pixels}", make_case([first, mask], height, pixels // height, batches=batches)


def _channels(bound: int) -> Iterator[tuple[str, Case]]:
    """Yield networks with these input and output channels of both convolutions, for several geometries."""
    for channels in _around(bound):
        for kernel, stride in ((3, 2), (1, 1), (2, 2), (4, 3)):
            geometry = {"kernel": kernel, "stride": stride}
            blocks: list[dict[str, Any]] = [
                {"name": "from_image", "kind": "transpose", "filters": channels, **geometry},
                {"name": "down", "kind": "conv", "filters": channels, **geometry},
                {"name": "further", "kind": "conv", "filters": 5, **geometry},
                {"name": "up", "kind": "transpose", "filters": channels, **geometry},
                {"name": "mask", "kind": "output", **geometry},
            ]
            yield f"{channels}, kernel {kernel}, stride {stride}", make_case(blocks, 6, 9, batches=(3, 2))


def _columns(bound: int) -> Iterator[tuple[str, Case]]:
    """Yield convolutions of each channel alone, with about these taps across and a few more."""
    first = {"name": "first", "kind": "conv", "filters": 6, "kernel": 3, "stride": 1}
    mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
    for columns in [*_around(bound), 2 * bound - 1, 2 * bound + 1]:
        for stride, padding in ((1, "same"), (1, "symmetric"), (2, "same"), (2, "symmetric")):
            alone = {"name": "alone", "kind": "conv", "filters": 12, "groups": 6, "kernel": columns}
            blocks = [first, {**alone, "stride": stride, "padding": padding}, mask]
            yield f"{columns}, stride {stride}, {padding}", make_case(blocks, 11, 8, batches=(3, 2))


def _phases(bound: int) -> Iterator[tuple[str, Case]]:
    """Yield transposed convolutions near the bound: many filters with stride 1, or 1 filter with a stride."""
    wide = [({"filters": filters, "stride": 1}, 1) for filters in _around(bound)]
    root = math.isqrt(bound)
    strided = [({"filters": 1, "stride": stride}, stride) for stride in (root, root + 1)]
    for block, stride in [*wide, *strided]:
        up = {"name": "up", "kind": "transpose", "kernel": 3, **block}
        mask = {"name": "mask", "kind": "output", "kernel": 3, "stride": stride}
        yield f"{block}", make_case([up, mask], 5, 4, batches=(2,), batch_norm=False)


def _sides(bound: int) -> Iterator[tuple[str, Case]]:
    """Yield images with sides below, at and above the bound, and a multiple, a prime and another length."""
    lengths = [*_around(bound), 2 * bound, 3 * bound - 1, 13]
    first = {"name": "first", "kind": "conv", "filters": 3, "kernel": 3, "stride": 1}
    mask = {"name": "mask", "kind": "output", "kernel": 3, "stride": 1}
    for height, width in zip(lengths, [*lengths[2:], *lengths[:2]], strict=True):
        yield f"{height}x{width}", make_case([first, mask], height, width, batches=(2, 3))


def _unfolded(bound: int) -> Iterator[tuple[str, Case]]:
    """Yield windows of 64 floats (16 channels, 2x2 taps): one below the bound, at the bound, one above."""
    for windows in _around(bound // 64):
        down = max(side for side in range(1, math.isqrt(windows) + 1) if windows % side == 0)
        blocks: list[dict[str, Any]] = [
            {"name": "wide", "kind": "conv", "filters": 16, "kernel": 1, "stride": 1, "batch_norm": False},
            {"name": "down", "kind": "conv", "filters": 3, "kernel": 2, "stride": 2, "batch_norm": False},
            {"name": "mask", "kind": "output", "kernel": 2},
        ]
        case = make_case(blocks, 2 * down, 2 * (windows // down), batches=(2,))
        yield f"{windows} windows", case


def _cancelling(bound: int) -> Iterator[tuple[str, Case]]:
    """Yield bright pictures with little contrast, whose mean is large compared with their deviation."""
    first = {"name": "first", "kind": "conv", "filters": 2, "kernel": 1, "stride": 1}
    mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
    for ratio in (bound * 0.9, bound * 0.999, bound * 1.001, bound * 1.1, bound * 10.0):
        case = make_case([first, mask], 40, 56, batches=(3,), batch_norm_settings={"momentum": 0.5})
        ((images, _),) = case.batches
        images[...] = (images - images.mean()) / images.std()
        images[...] = 0.5 + 0.5 / np.sqrt(ratio - 1) * images
        case.state["first/kernel"][...], case.state["first/bias"][...] = [1.0, 1.5], 0.0
        yield f"{ratio:g}", case


_CASES: dict[Quantity, Callable[[int], Iterator[tuple[str, Case]]]] = {
    "pixels of a batch norm": _pixels,
    "pixels of an image": functools.partial(_pixels, batches=(3, 1)),
    "channels": _channels,
    "columns of a kernel": _columns,
    "filters of phases": _phases,
    "length of a side": _sides,
    "floats of unfolded windows": _unfolded,
    "squared mean over variance": _cancelling,
}
