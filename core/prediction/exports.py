"""Exported models: what is told of them, and how one is written and checked.

Promises: every export, in whatever format, goes with the same facts, so that who serves it needs nothing of
this project: beside it as `metadata.json`, and in the file itself where the format has a place. All are
strings, as the formats want them:

    format, format_version      "pneumoseg-export", "1"
    written_by                  this project and its version, and the framework with its version
    classes                     JSON: the names of the output's channels
    height, width               of the images that the network was trained on
    white                       the value of a white pixel in `images`: what the graph divides by
    thresholds                  JSON: pixel, area, score (`core.scoring.thresholds`); without it none were
    searched mirror_images               "true" if the thresholds are for the mean of what is predicted of an
    image and
                                of its mirror image (left and right exchanged), mirrored back; else absent
    network, network_sha256     JSON: the specification's blocks and settings; the hash of that text
    precision                   "float32", …: what the network computes in
    epoch, step                 how long it was trained
    checkpoint                  the checkpoint's file name and, in checkpoint_sha256, its hash
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Array, Implementation, Precision, SeveralFormats, State
from core.backend.state import state_shapes
from core.backend.training_rules import TrainingRules
from core.base.errors import UserError
from core.base.programs import command_line
from core.base.randomness import uniform
from core.base.rounding import to_float32
from core.experiment.checkpoint import Checkpoint
from core.files.atomic import write_text
from core.network.plan import BatchNorm, Constant, Parameter, Plan, Statistic, Tensor
from core.scoring.thresholds import SavedThresholds, Thresholds

EXPORT = "export"
"""In the folder of a model: what training exported, in its framework's own format."""

METADATA = "metadata.json"
FORMAT, VERSION = "pneumoseg-export", "1"
CLASSES = ("pneumothorax",)

TOLERANCES: Mapping[Precision, float] = {"float32": 1e-3, "float64": 1e-3, "mixed_bfloat16": 5e-2}
"""How far a probability may be from the reference's of the same precision. Rounding alone comes to 1e-6 or
1e-5, more where a network is strange to what it sees; a wrong export is much farther."""

_MIRRORED = "mirror_images"
_WHITE = "white-level"  # no block can have this name


def export_metadata(
    checkpoint: Checkpoint, path: Path, saved: SavedThresholds | None, *, white: float = 1.0, writer: str = ""
) -> dict[str, str]:
    """What is told of a model.

    Args:
        checkpoint: The model.
        path: The checkpoint's file.
        saved: The model's own thresholds; None if none were searched.
        white: See the module.
        writer: The framework and its version; "" where that is not known.
    """
    network = json.dumps(checkpoint.configuration.network.model_dump(mode="json"), sort_keys=True)
    facts = {
        "format": FORMAT,
        "format_version": VERSION,
        "written_by": f"pneumoseg {importlib.metadata.version('pneumoseg')}" + (writer and f", {writer}"),
        "classes": json.dumps(CLASSES),
        "height": str(checkpoint.data.height),
        "width": str(checkpoint.data.width),
        "white": f"{white:g}",
        "network": network,
        "network_sha256": hashlib.sha256(network.encode()).hexdigest(),
        "precision": checkpoint.configuration.training.precision,
        "epoch": str(len(checkpoint.progress.history)),
        "step": str(checkpoint.progress.step),
        "checkpoint": path.name,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return facts if saved is None else facts | _of_thresholds(saved.thresholds, flip=bool(saved.flip))


def write_metadata(folder: Path, metadata: Mapping[str, str]) -> None:
    """Put `metadata.json` beside an export."""
    write_text(folder / METADATA, json.dumps(dict(metadata), indent=1) + "\n")


def read_metadata(folder: Path) -> dict[str, str] | None:
    """That of an export; None where there is none of ours."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        return dict(content) if content.get("format") == FORMAT else None
    return None


def update_thresholds(folder: Path, thresholds: Thresholds, *, flip: bool) -> None:
    """Tell of thresholds that were searched after the export in a folder was written, if one was.

    Args:
        folder: The export's.
        thresholds: What was found.
        flip: Whether mirror images were predicted too.
    """
    if (metadata := read_metadata(folder)) is not None:
        metadata.pop(_MIRRORED, None)
        write_metadata(folder, metadata | _of_thresholds(thresholds, flip=flip))


@dataclass(frozen=True)
class ExportSource:
    """A network to export. `state` is what it will hold; the rest as for `Implementation.compile`."""

    plan: Plan
    rules: TrainingRules
    precision: Precision
    state: State


def with_white_level(source: ExportSource, white: float) -> ExportSource:
    """The same network, for images whose white is `white` instead of 1.

    The division is a batch normalisation before everything else, of mean 0 and variance white**2: so every
    backend has it already, in float32 whatever the products are rounded to, to a unit in the last place.

    Raises:
        UserError: There can be no such images.
    """
    if not (math.isfinite(white) and 0 < white < 1e9):
        raise UserError(f"--white must be the value of a white pixel, as 255 or 1. Received: {white:g}")
    if white == 1:
        return source
    plan, channels = source.plan, source.plan.input.channels
    epsilon = to_float32(white**2 / 2)
    parameters = (
        Parameter(f"{_WHITE}/gamma", (channels,), "gamma", Constant(1.0)),
        Parameter(f"{_WHITE}/beta", (channels,), "beta", Constant(0.0)),
    )
    statistics = (
        Statistic(f"{_WHITE}/moving_mean", (channels,), Constant(0.0)),
        Statistic(f"{_WHITE}/moving_variance", (channels,), Constant(to_float32(white**2 - epsilon))),
    )
    divided = Tensor(f"{_WHITE}/batch_norm", plan.input.height, plan.input.width, channels)
    gamma, beta, mean, variance = (array.name for array in (*parameters, *statistics))
    division = BatchNorm(
        divided.name, (plan.input.name,), divided, gamma, beta, mean, variance, momentum=1.0, epsilon=epsilon
    )
    rest = (
        replace(op, inputs=tuple(divided.name if name == plan.input.name else name for name in op.inputs))
        for op in plan.operations
    )
    wider = replace(
        plan,
        operations=(division, *rest),
        parameters=(*parameters, *plan.parameters),
        statistics=(*statistics, *plan.statistics),
    )
    first = {array.name: array.initial.value for array in (*parameters, *statistics)}  # type: ignore[union-attr]
    state = {
        name: source.state[name] if name in source.state else np.full(shape, first.get(name, 0), np.float32)
        for name, shape in state_shapes(wider, source.rules).items()
    }
    return replace(source, plan=wider, state=state)


def write_export(
    implementation: Implementation,
    source: ExportSource,
    folder: Path,
    metadata: Mapping[str, str],
    form: str | None = None,
) -> None:
    """Write the export alone into a folder; runs in the backend's process.

    Args:
        implementation: The backend's.
        source: What to export.
        folder: Where to.
        metadata: For formats that can carry it.
        form: Which of a backend's several formats; None of one that has a single one.
    """
    model = implementation.compile(source.plan, source.rules, "cpu", source.precision)
    model.load_state(source.state)
    if form is None:
        model.export(folder, metadata)
    else:
        cast(SeveralFormats, model).export(folder, metadata, form)


def read_back(implementation: Implementation, folder: Path, images: Array) -> Array | None:
    """What an export predicts, by the framework's own loader; None of a backend that has none."""
    predict = getattr(implementation, "predict_exported", None)
    return None if predict is None else np.asarray(predict(folder, images))


def probe_images(height: int, width: int) -> NDArray[np.float32]:
    """Two images (2, height, width, 1) in [0, 1] to check an export with: noise; a bright spot on a slope."""
    noise = uniform(0, "export", shape=(height, width))
    y, x = np.mgrid[:height, :width] / np.reshape([height, width], (2, 1, 1))
    spot = 0.6 * x + 0.2 * y + 0.2 * (((x - 0.3) / 0.2) ** 2 + ((y - 0.6) / 0.1) ** 2 < 1)
    images: NDArray[np.float32] = np.stack([noise, spot])[..., np.newaxis].astype(np.float32)
    return images


def predict_reference(reference: Implementation, source: ExportSource, images: Array) -> Array:
    """What the reference predicts of images in [0, 1] with the same network in the same precision."""
    model = reference.compile(source.plan, source.rules, "cpu", source.precision)
    model.load_state(source.state)
    return model.predict(images)


def largest_difference(received: Array, expected: Array, precision: Precision, what: str) -> float:
    """Of two sets of probabilities.

    Raises:
        UserError: It is more than rounding explains.
    """
    if received.shape != expected.shape:
        raise UserError(f"{what} gives probabilities of {received.shape}; expected {expected.shape}")
    found = float(np.abs(received.astype(np.float64) - expected).max())
    if not found <= TOLERANCES[precision]:
        raise UserError(
            f"{what} is wrong: a probability differs from the reference's by {found:.2g}, allowed "
            f"{TOLERANCES[precision]:g}. Nothing was written.",
            f"This is an error of the backend; {command_line('conformance', '-f NAME')} may show where.",
        )
    return found


def _of_thresholds(thresholds: Thresholds, *, flip: bool) -> dict[str, str]:
    facts = {"thresholds": json.dumps(dataclasses.asdict(thresholds))}
    return {**facts, _MIRRORED: "true"} if flip else facts
