"""A model's encoder, or the whole model, as other programs name and lay out its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from core.backend.registry import find_weight_reader
from core.backend.weight_files import WeightFileWriter, to_channels_first
from core.base.errors import UserError
from core.files.atomic import write_bytes
from core.network.plan import Plan
from core.weights.names import NAMINGS, Naming
from core.weights.transfer import layers_of

_PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
PYTORCH = ("torchvision", "cadene", "efficientnet_pytorch", "timm_efficientnet")
"""Namings in which weights can be written."""


def naming_for(plan: Plan, name: str | None = None) -> Naming:
    """Return the naming in which a network's encoder is written: the named one, or the first that has it all.

    Raises:
        UserError: No naming knows every layer of the encoder, or the named one does not.
    """
    encoder = _encoder_layers(plan)
    if not encoder:
        raise UserError("the network has no encoder, so no other program's class has its layers")
    for naming in NAMINGS:
        wanted = naming.name in PYTORCH and name in (None, naming.name)
        if wanted and len(naming.sources(encoder)) == len(encoder):
            return naming
    known = ", ".join(PYTORCH)
    raise UserError(
        f"no names for the network's encoder{'' if name is None else f' in {name!r}'}", f"Known: {known}."
    )


def as_state_dict(plan: Plan, state: Mapping[str, NDArray[Any]], naming: Naming) -> dict[str, NDArray[Any]]:
    """Return the encoder's arrays in PyTorch's names and layouts.

    Args:
        plan: The network's.
        state: Its arrays.
        naming: From `naming_for`.

    Returns:
        Name -> array, with the counters of batches that PyTorch's batch norms have (0).
    """
    found: dict[str, NDArray[Any]] = {}
    layers = layers_of(plan)
    for layer, names in naming.sources(_encoder_layers(plan)).items():
        for part in layers[layer]:
            of_norm = part in ("gamma", "beta", "moving_mean", "moving_variance")
            name = names.norm if of_norm else names.convolution
            found[f"{name}.{_PARTS[part]}"] = to_channels_first(part, state[f"{layer}/{part}"])
        if names.norm is not None:
            found[f"{names.norm}.num_batches_tracked"] = np.zeros((), np.int64)
    return found


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as `.safetensors`, or by the backend whose files have the suffix.

    Raises:
        UserError: Nobody writes files of this suffix.
    """
    if path.suffix == ".safetensors":
        write_bytes(path, save(dict(arrays)))
        return
    files = find_weight_reader(path).weight_files
    if files is None or not files.writes:
        raise UserError(f"{path}: nobody writes {path.suffix} files", "Name a .pth or a .safetensors file.")
    cast(WeightFileWriter, importlib.import_module(files.module)).write_weights(path, arrays)


def _encoder_layers(plan: Plan) -> Sequence[str]:
    return [layer for layer in layers_of(plan) if layer.startswith("encoder_")]
