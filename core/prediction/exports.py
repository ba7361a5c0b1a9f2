"""Export of models: their metadata, and how an export is written and checked.

An export takes images and returns probabilities; of a network with the existence head it returns the
existence probabilities, (N,), too.

Every export has the same metadata in every format, so that serving it needs nothing of this project. The
metadata is in `metadata.json` beside the export, and in the exported file where its format allows. All values
are strings, as the formats require:

    format, format_version      "pneumoseg-export", "1"
    written_by                  this project and its version, and the framework with its version
    classes                     JSON: the names of the output's channels
    height, width               size of the images that the network was trained on
    clahe                       JSON: limit and tiles of the equalisation (CLAHE) of the training images;
                                `images` must be equalised in the same way. Absent if none
    white                       the value of a white pixel in `images`, by which the graph divides
    thresholds                  JSON: pixel, area, score and, with the existence head, existence
                                (`core.scoring.thresholds`); absent if never searched
    mirror_images               "true" if the thresholds apply to the mean of the prediction for an image and
                                the flipped prediction for its mirror image (left and right); else absent
    scales                      JSON: the scales, if the thresholds apply to the mean of the predictions for
                                several sizes of an image, resized back; else absent
    network, network_sha256     JSON: the specification's blocks and settings; the hash of that text
    precision                   the network's precision, such as "float32"
    epoch, step                 number of finished epochs and updates
    checkpoint                  the checkpoint's file name
    checkpoint_sha256           the checkpoint's hash
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import (
    Array,
    ExistenceModel,
    Implementation,
    MultiFormatModel,
    Precision,
    State,
)
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
from core.scoring.views import PLAIN, Views

EXPORT = "export"
"""Folder in a model's folder with the export that training wrote, in the framework's own format."""

METADATA = "metadata.json"
FORMAT, VERSION = "pneumoseg-export", "1"
CLASSES = ("pneumothorax",)

TOLERANCES: Mapping[Precision, float] = {
    "float32": 1e-3,
    "float64": 1e-3,
    "tf32": 1e-2,
    "mixed_bfloat16": 5e-2,
    "mixed_float16": 1e-2,
}
"""Largest allowed difference of a probability from the reference's in the same precision.

Rounding causes 1e-6 to 1e-5, more on images unlike the training images. A wrong export differs by more."""

_MIRRORED, _SCALES = "mirror_images", "scales"
_WHITE = "white-level"  # no block can have this name


def export_metadata(
    checkpoint: Checkpoint, path: Path, saved: SavedThresholds | None, *, white: float = 1.0, writer: str = ""
) -> dict[str, str]:
    """Return the metadata of a model.

    Args:
        checkpoint: The model.
        path: The checkpoint's file.
        saved: The model's own thresholds; None if none were searched.
        white: The value of a white pixel: see the module.
        writer: The framework and its version; "" if unknown.
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
    if (clahe := checkpoint.data.clahe) is not None:
        facts["clahe"] = json.dumps({"limit": clahe[0], "tiles": clahe[1]})
    return facts if saved is None else facts | _threshold_facts(saved.thresholds, saved.views or PLAIN)


def write_metadata(folder: Path, metadata: Mapping[str, str]) -> None:
    """Write `metadata.json` beside an export."""
    write_text(folder / METADATA, json.dumps(dict(metadata), indent=1) + "\n")


def read_metadata(folder: Path) -> dict[str, str] | None:
    """Return the metadata of an export; None if the folder holds none of this project."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        return dict(content) if content.get("format") == FORMAT else None
    return None


def update_thresholds(folder: Path, thresholds: Thresholds, views: Views) -> None:
    """Write new thresholds into the metadata of an export, if the folder holds one.

    Args:
        folder: The export's folder.
        thresholds: The thresholds.
        views: The views on whose mean probabilities they were searched.
    """
    if (metadata := read_metadata(folder)) is not None:
        for name in (_MIRRORED, _SCALES):
            metadata.pop(name, None)
        write_metadata(folder, metadata | _threshold_facts(thresholds, views))


class Outputs(NamedTuple):
    """What an export returns: probabilities (N, H, W, 1), and those of existence, (N,), if there are any."""

    masks: Array
    existence: Array | None


@dataclass(frozen=True)
class ExportSource:
    """A network to export with its `state`; the other fields are as for `Implementation.compile`."""

    plan: Plan
    rules: TrainingRules
    precision: Precision
    state: State


def with_white_level(source: ExportSource, white: float) -> ExportSource:
    """Return the same network for images with `white` as the value of white instead of 1.

    The division is a batch normalisation of mean 0 and variance white**2 before the first operation. Every
    backend supports it, in float32 in every precision, accurate to a unit in the last place.

    Raises:
        UserError: `white` is not a possible value.
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
    """Write the export without `metadata.json` into a folder; runs in the backend's process.

    Args:
        implementation: The backend's implementation.
        source: The network to export.
        folder: The folder to write to.
        metadata: Metadata for formats that can store it.
        form: One of the backend's formats; None if it has a single one.
    """
    model = implementation.compile(source.plan, source.rules, "cpu", source.precision)
    model.load_state(source.state)
    if form is None:
        model.export(folder, metadata)
    else:
        cast(MultiFormatModel, model).export(folder, metadata, form)


def read_back(implementation: Implementation, folder: Path, images: Array) -> Outputs | None:
    """Return an export's predictions by the framework's own loader; None if the backend has no loader."""
    predict = getattr(implementation, "predict_exported", None)
    if predict is None:
        return None
    found = predict(folder, images)
    masks, existence = found if isinstance(found, tuple) else (found, None)
    return Outputs(np.asarray(masks), None if existence is None else np.asarray(existence))


def probe_images(height: int, width: int) -> NDArray[np.float32]:
    """Return two images (2, height, width, 1) in [0, 1] for checking an export: noise, and a bright spot."""
    noise = uniform(0, "export", shape=(height, width))
    y, x = np.mgrid[:height, :width] / np.reshape([height, width], (2, 1, 1))
    spot = 0.6 * x + 0.2 * y + 0.2 * (((x - 0.3) / 0.2) ** 2 + ((y - 0.6) / 0.1) ** 2 < 1)
    images: NDArray[np.float32] = np.stack([noise, spot])[..., np.newaxis].astype(np.float32)
    return images


def predict_reference(reference: Implementation, source: ExportSource, images: Array) -> Outputs:
    """Return the reference's predictions for images in [0, 1] with the same network and precision."""
    model = reference.compile(source.plan, source.rules, "cpu", source.precision)
    model.load_state(source.state)
    if source.plan.existence is None:
        return Outputs(model.predict(images), None)
    return Outputs(*cast(ExistenceModel, model).predict_with_existence(images))


def largest_difference(received: Outputs, expected: Outputs, precision: Precision, what: str) -> float:
    """Return the largest difference of two sets of probabilities.

    Raises:
        UserError: The shapes differ, or the difference is larger than rounding explains.
    """
    found = _difference(received.masks, expected.masks, "probabilities", what)
    if expected.existence is not None:
        if received.existence is None:
            raise UserError(
                f"{what} gives no existence probabilities, and the network has the existence head"
            )
        name = "existence probabilities"
        found = max(found, _difference(received.existence, expected.existence, name, what))
    if not found <= TOLERANCES[precision]:
        raise UserError(
            f"{what} is wrong: a probability differs from the reference's by {found:.2g}, allowed "
            f"{TOLERANCES[precision]:g}. Nothing was written.",
            f"This is an error of the backend; {command_line('conformance', '-f NAME')} may show where.",
        )
    return found


def _difference(received: Array, expected: Array, name: str, what: str) -> float:
    if received.shape != expected.shape:
        raise UserError(f"{what} gives {name} of {received.shape}; expected {expected.shape}")
    return float(np.abs(received.astype(np.float64) - expected).max())


def _threshold_facts(thresholds: Thresholds, views: Views) -> dict[str, str]:
    facts = {"thresholds": json.dumps(thresholds.as_dict())}
    if views.flip:
        facts[_MIRRORED] = "true"
    if views.scaled:
        facts[_SCALES] = json.dumps(views.scales)
    return facts
