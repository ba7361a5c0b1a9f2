"""Files that a training begins with: arrays of a network, or of some of its blocks, under our names.

`python run.py weights` writes them (safetensors with JSON metadata: where the arrays are from, SHA-256 of
that file). `training.start_from` takes such a file, or the folder of a trained model, whose weights then
begin another training: all of them, or those of the encoder if the rest is of another shape.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from core.backend.state import prediction_state
from core.base.errors import UserError
from core.base.programs import command_line
from core.experiment.checkpoint import AVERAGED, BEST, Start, load_checkpoint
from core.experiment.checkpoint import FORMAT as CHECKPOINT
from core.files.atomic import write_bytes
from core.files.system_errors import explain_os_errors
from core.network.plan import Plan
from core.weights.files import digest
from core.weights.transfer import Fit

FORMAT = "pneumoseg-start"
VERSION = 1


@dataclass(frozen=True)
class StartFile:
    """The content of a start file.

    Args:
        start: Where the arrays are from.
        arrays: Name of ours -> array, float32 or, of a float64 model, float64.
    """

    start: Start
    arrays: dict[str, NDArray[np.floating[Any]]]


def save_start_file(path: Path, fit: Fit, source: Path) -> None:
    """Write the arrays that `source` gives to a network."""
    start = Start(source.name, digest(source), fit.part, fit.blocks, fit.zoo)
    metadata = {"format": FORMAT, "version": str(VERSION), "start": json.dumps(asdict(start))}
    write_bytes(path, save(fit.arrays, metadata))


def load_start(path: Path, plan: Plan) -> StartFile:
    """Read what a training begins with, for the network of `plan`.

    Args:
        path: A start file, a checkpoint or the folder of a trained model.
        plan: The network's.

    Raises:
        UserError: It is none of these, is damaged, or does not fit: the text has the names.
    """
    if path.is_dir():
        path = _checkpoint_in(path)
    found = _of_checkpoint(path, plan) if _format_of(path) == CHECKPOINT else _of_start_file(path)
    shapes = {array.name: array.shape for array in plan.arrays}
    faults = [f"{name}: the network has no such array" for name in found.arrays if name not in shapes]
    faults += [
        f"{name}: {array.shape} in the file, {shapes[name]} in the network"
        for name, array in found.arrays.items()
        if name in shapes and array.shape != shapes[name]
    ]
    faults += [
        f"{name}: missing in the file"
        for name in shapes
        if name.split("/")[0] in found.start.blocks and name not in found.arrays
    ]
    if faults:
        more = [f"and {len(faults) - 6} more"] if len(faults) > 6 else []
        raise UserError(
            f"training.start_from: {path} does not fit the network:\n  " + "\n  ".join([*faults[:6], *more]),
            f"Make one for this configuration: {command_line('weights', 'FILE --config NAME')}",
        )
    return found


def _checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint in a model's folder that predicts."""
    found = next((folder / name for name in (AVERAGED, BEST) if (folder / name).is_file()), None)
    if found is not None:
        return found
    inside = sorted({path.parent for path in folder.glob(f"*/{BEST}")})
    raise UserError(
        f"training.start_from: {folder} holds no {BEST}",
        f"Name one of the folders in it: {', '.join(path.name for path in inside)}"
        if inside
        else "Name the folder of a trained model, as tf_model, or a file.",
    )


def _format_of(path: Path) -> str | None:
    try:
        with explain_os_errors(path, "read"), path.open("rb"), safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format")
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"training.start_from: {path} is damaged, or no safetensors file: {error}",
            f"Files of other programs are turned into one by {command_line('weights', 'FILE --config NAME')}",
        ) from error


def _of_start_file(path: Path) -> StartFile:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(VERSION)):
                raise UserError(
                    f"training.start_from: {path} is no start file",
                    f"Make one from it: {command_line('weights', f'{path} --config NAME')}",
                )
            start = TypeAdapter(Start).validate_json(metadata.get("start", ""))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, ValidationError, TypeError) as error:
        raise UserError(f"training.start_from: {path} is damaged: {error}") from error
    if bad := [
        name for name, array in arrays.items() if array.dtype != np.float32 or not np.isfinite(array).all()
    ]:
        raise UserError(f"training.start_from: {path} is damaged: {bad[0]} holds no finite float32 numbers")
    return StartFile(start, arrays)


def _of_checkpoint(path: Path, plan: Plan) -> StartFile:
    """Return all arrays of a model, or those of its encoder if the network differs behind it."""
    arrays = prediction_state(load_checkpoint(path).arrays)
    shapes = {array.name: array.shape for array in plan.arrays}
    part = "the whole network"
    if {name: array.shape for name, array in arrays.items()} != shapes and any(map(_of_encoder, shapes)):
        arrays = {name: array for name, array in arrays.items() if _of_encoder(name)}
        part = "the encoder"
    blocks = dict.fromkeys(name.split("/")[0] for name in (arrays if part == "the encoder" else shapes))
    return StartFile(Start(path.name, digest(path), part, tuple(blocks), "pneumoseg"), arrays)


def _of_encoder(name: str) -> bool:
    return name.startswith("encoder_")
