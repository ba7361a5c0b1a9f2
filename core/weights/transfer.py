"""The places in a network for the arrays of another program's file.

`fit` returns them, or refuses: nothing of the file may be left over, nothing missing, nothing of another
shape, and the network must compute what the file's did. The blocks that are filled are the whole network, or
all blocks of its encoder, or those that a file of names lists; each of them is filled whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backend.weight_files import FileLayers
from core.base.errors import UserError
from core.base.rounding import to_float32
from core.network.padding import pads_of
from core.network.plan import BatchNorm, Conv2D, GroupedConv2D, Plan
from core.weights.names import NAMINGS, NamesFile, Naming, SourceNames, read_names

_WRAPPERS = ("module.", "model.", "_orig_mod.", "net.")
"""What training scripts leave before every name: removed."""
_ENCODERS = ("", "encoder.", "backbone.")
"""What the names of the encoder's layers begin with."""
_GLUON_PREFIX = re.compile(r"^[a-z0-9]+_(?=(conv|batchnorm|stage|dense)\d)")


@dataclass(frozen=True)
class Row:
    """One layer of ours and where its arrays came from.

    Args:
        layer: Its name.
        source: The file's layers.
        shape: Of its kernel.
        numbers: How many it has.
        note: What was done besides copying; "" mostly.
    """

    layer: str
    source: str
    shape: tuple[int, ...]
    numbers: int
    note: str


@dataclass(frozen=True)
class Fit:
    """The arrays that a file gives to a network.

    Args:
        arrays: Name of ours -> array, float32.
        rows: What went where, in the network's order.
        blocks: The blocks that are filled.
        part: These blocks in words.
        zoo: Whose names the file has.
        unused: Layers of the file that a segmentation network has no use for.
        remarks: What the network computes a little differently; one sentence each.
    """

    arrays: dict[str, NDArray[np.float32]]
    rows: tuple[Row, ...]
    blocks: tuple[str, ...]
    part: str
    zoo: str
    unused: tuple[str, ...]
    remarks: tuple[str, ...]


def layers_of(plan: Plan) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the layers with arrays in the plan's order: layer -> part -> shape."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for array in plan.arrays:
        layer, _, part = array.name.rpartition("/")
        layers.setdefault(layer, {})[part] = array.shape
    order = {kernel: place for place, kernel in enumerate(p.name for p in plan.parameters)}
    return dict(sorted(layers.items(), key=lambda item: order[f"{item[0]}/kernel"]))


def fit(plan: Plan, layers: FileLayers, names: str | None = None, source: str = "the file") -> Fit:
    """Find the place of every array of a file.

    Args:
        plan: Of the network, for any size of images.
        layers: The file's.
        names: The name of one of `NAMINGS`, or the path of a file of names; None takes the naming that knows
            most of the file.
        source: The file, for messages.

    Raises:
        UserError: Something does not fit; the message has the names.
    """
    layers = _unwrapped(layers)
    if names is not None and names not in {naming.name for naming in NAMINGS}:
        if not Path(names).suffix:
            known = ", ".join(naming.name for naming in NAMINGS)
            raise UserError(f"--names {names}: no such naming", f"Known: {known}; or a YAML file.")
        return _fit_listed(plan, layers, read_names(Path(names)), names, source)
    return _fit_named(plan, layers, names, source)


def _fit_named(plan: Plan, layers: FileLayers, name: str | None, source: str) -> Fit:
    ours = layers_of(plan)
    candidates = [
        (naming, naming.sources(list(ours), prefix))
        for naming in NAMINGS
        if name in (None, naming.name)
        for prefix in _ENCODERS
    ]
    known = [sum(one.convolution in layers for one in found.values()) for _, found in candidates]
    naming, found = candidates[int(np.argmax(known))]
    if max(known) == 0:
        raise UserError(
            f"{source}: no layer of it has a name that is known: {_some(layers)}",
            f"Known are those of {'; '.join(one.title for one in NAMINGS)}. For another network write the "
            "names into a YAML file: --names FILE.",
        )
    there = {layer for layer, one in found.items() if one.convolution in layers}
    encoder = [layer for layer in ours if layer.startswith("encoder_")]
    wanted, part = list(ours), "the whole network"
    if len(there) < len(ours) and there <= set(encoder):
        wanted, part = encoder, "the encoder"
    if missing := [layer for layer in wanted if layer not in there]:
        named = [f"{layer} ({found[layer].convolution})" if layer in found else layer for layer in missing]
        raise UserError(
            f"{source}: names as in {naming.title}, but it has nothing for {_some(named)}",
            "The file is of another network than the configuration.",
        )
    _check_arithmetic(plan, naming, source)
    return _filled(
        plan, layers, {layer: found[layer] for layer in wanted}, part, naming.title, naming.unused,
        _remarks(plan, naming), source,
    )  # fmt: skip


def _fit_listed(plan: Plan, layers: FileLayers, listed: NamesFile, path: str, source: str) -> Fit:
    ours, found = layers_of(plan), listed.sources()
    if unknown := [layer for layer in found if layer not in ours]:
        raise UserError(
            f"{path}: the network has no layer {_some(unknown)}", f"Its layers: {', '.join(ours)}"
        )
    blocks = {layer.split("/")[0] for layer in found}
    wanted = [layer for layer in ours if layer.split("/")[0] in blocks]
    if missing := [layer for layer in wanted if layer not in found]:
        raise UserError(f"{path}: {_some(missing)} of blocks that it lists are missing")
    part = "the whole network" if len(wanted) == len(ours) else "the listed blocks"
    chosen = {layer: found[layer] for layer in wanted}
    return _filled(plan, layers, chosen, part, f"names of {path}", listed.leave, (), source)


def _filled(
    plan: Plan,
    layers: FileLayers,
    chosen: Mapping[str, SourceNames],
    part: str,
    zoo: str,
    unused: Sequence[str],
    remarks: tuple[str, ...],
    source: str,
) -> Fit:
    ours = layers_of(plan)
    used = {name for names in chosen.values() for name in names if name}
    left = [name for name in layers if name not in used]
    without_use = [name for name in left if any(re.fullmatch(pattern, name) for pattern in unused)]
    faults = [f"{name}: in the file, but not in the network" for name in left if name not in without_use]
    normalised = {
        op.gamma.rpartition("/")[0] for op in plan.operations
        if isinstance(op, BatchNorm) and op.inputs[0].endswith(("/conv", "/bias"))
    }  # fmt: skip
    arrays: dict[str, NDArray[np.float32]] = {}
    rows = []
    for layer, names in chosen.items():
        given: dict[str, NDArray[Any]] = {}
        for name in filter(None, names):
            given |= layers.get(name, {})
        taken, note, wrong = _layer(layer, ours[layer], given, layer in normalised)
        faults += wrong
        arrays |= {f"{layer}/{name}": array for name, array in taken.items()}
        shape = ours[layer]["kernel"]
        numbers = sum(array.size for array in taken.values())
        rows.append(Row(layer, " + ".join(filter(None, names)), shape, numbers, note))
    if faults:
        shown = [*faults[:12], *([f"and {len(faults) - 12} more"] if len(faults) > 12 else [])]
        raise UserError(
            f"{source} does not fit the network ({part}; {zoo}):\n  " + "\n  ".join(shown),
            "The file must be of the same network.",
        )
    blocks = tuple(dict.fromkeys(layer.split("/")[0] for layer in chosen))
    return Fit(arrays, tuple(rows), blocks, part, zoo, tuple(without_use), remarks)


def _layer(
    layer: str, shapes: Mapping[str, tuple[int, ...]], given: dict[str, NDArray[Any]], normalised: bool
) -> tuple[dict[str, NDArray[np.float32]], str, list[str]]:
    """Return the arrays of one layer, what was done to them, and what does not fit.

    A convolution before a batch norm may have a bias in one of the two networks only: a bias of zeros is
    none, and a bias that is subtracted from the running mean gives the same result.
    """
    notes: list[str] = []
    wrong: list[str] = []
    if "bias" in shapes and "bias" not in given and normalised and "kernel" in given:
        given["bias"] = np.zeros(shapes["bias"], np.float32)
        notes.append("bias 0: the file has none")
    if "bias" in given and "bias" not in shapes and normalised and "moving_mean" in given:
        given["moving_mean"] = given["moving_mean"].astype(np.float64) - given.pop("bias")
        notes.append("bias taken off the running mean")
    taken = {}
    for part, shape in shapes.items():
        if part not in given:
            wrong.append(f"{layer}/{part}: missing in the file")
            continue
        array = given[part]
        if part == "kernel" and array.shape != shape and shape[2] == 1 and array.size == np.prod(shape):
            # Keras' depthwise kernel: (kh, kw, channels, filters of each).
            array = array.reshape(shape) if array.shape[:2] == shape[:2] else array
        if array.shape != shape:
            wrong.append(f"{layer}/{part}: {array.shape} in the file, {shape} in the network")
            continue
        taken[part] = np.ascontiguousarray(array, dtype=np.float32)
        if not np.array_equal(taken[part], array):
            notes.append("rounded to float32")
    wrong += [f"{layer}/{part}: in the file, but not in the network" for part in given if part not in shapes]
    return taken, "; ".join(dict.fromkeys(notes)), wrong


def _check_arithmetic(plan: Plan, naming: Naming, source: str) -> None:
    """Refuse a network whose strides or pads lie elsewhere than in the file's: its features would differ."""
    heights = {op.output.name: op.output.height for op in plan.operations} | {
        plan.input.name: plan.input.height
    }
    for op in plan.operations:
        if not isinstance(op, Conv2D) or op.stride == 1 or not op.name.startswith("encoder_"):
            continue
        block, _, part = op.kernel.rpartition("/")[0].partition("/")
        bottleneck = any(p.name == f"{block}/conv3/kernel" for p in plan.parameters)
        depthwise = isinstance(op, GroupedConv2D) and op.groups == op.output.channels
        if bottleneck and not depthwise and part in ("conv1", "conv2"):
            at = "first" if part == "conv1" else "middle"
            if at != naming.stride_at:
                raise UserError(
                    f"{source}: {naming.title} has the stride of a bottleneck at its {naming.stride_at} "
                    f"convolution, the network's block {block!r} at the {at} one",
                    f"Set stride_at: {naming.stride_at}, in network.encoder or in the blocks.",
                )
        if naming.padding is not None:
            pads = pads_of(naming.padding, heights[op.inputs[0]], op.kernel_size[0], op.stride)[1]
            if pads != op.pads[0]:
                raise UserError(
                    f"{source}: {naming.title} pads {naming.padding}, the network's block {block!r} does not",
                    f"Set padding: {naming.padding}.",
                )


def _remarks(plan: Plan, naming: Naming) -> tuple[str, ...]:
    norms = [op for op in plan.operations if isinstance(op, BatchNorm)]
    if not norms or naming.epsilon is None or norms[0].epsilon == to_float32(naming.epsilon):
        return ()
    return (
        f"Batch norms have epsilon {norms[0].epsilon:.6g}, those of {naming.title} {naming.epsilon:g}: "
        "results differ a little.",
    )


def _unwrapped(layers: FileLayers) -> FileLayers:
    """Remove what all names begin with and what says nothing."""
    while prefix := next((one for one in _WRAPPERS if all(name.startswith(one) for name in layers)), None):
        layers = {name.removeprefix(prefix): parts for name, parts in layers.items()}
    if all(_GLUON_PREFIX.match(name) for name in layers):
        layers = {_GLUON_PREFIX.sub("", name): parts for name, parts in layers.items()}
    return layers


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return ", ".join(listed[:4]) + more
