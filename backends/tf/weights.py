"""Files of weights of Keras: `.h5` and `.weights.h5` of all versions, and `.keras`. TensorFlow is not needed.

Keras 2 and `save(".h5")` list the layers in the attribute `layer_names`. Keras 3 writes
`layers/conv2d_1/vars/0`, where the number counts layers of a class; the layer's own name is an attribute of
`vars`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core.backend.weight_files import FileLayers
from core.base.errors import UserError

_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_MEMBER = "model.weights.h5"


def read_weights(path: Path) -> FileLayers:
    """Return the layers that have weights, by Keras' names of them."""
    try:
        with h5py.File(_content(path), "r") as file:
            root = file.get("model_weights", file)
            named = _listed(root) if "layer_names" in root.attrs else _numbered(path, root)
            return {layer: _parts(path, layer, arrays) for layer, arrays in named if arrays}
    except UserError:
        raise
    except Exception as error:  # h5py raises errors of every kind for damaged files
        raise UserError(f"{path} is damaged, or no file of Keras: {error}") from error


def _content(path: Path) -> Path | io.BytesIO:
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            raise UserError(f"{path}: the archive has no {_MEMBER}; it is no file of Keras")
        if archive.getinfo(_MEMBER).file_size > 20 * path.stat().st_size:
            raise UserError(f"{path}: the archive declares more data than it can hold")
        return io.BytesIO(archive.read(_MEMBER))


def _listed(root: Any) -> Iterator[tuple[str, list[tuple[str, NDArray[Any]]]]]:
    for name in map(_text, root.attrs["layer_names"]):
        group = root[name]
        weights = [_text(weight) for weight in group.attrs["weight_names"]]
        yield name, [(weight.split("/")[-1].split(":")[0], _array(group, weight)) for weight in weights]


def _numbered(path: Path, root: Any) -> Iterator[tuple[str, list[tuple[str, NDArray[Any]]]]]:
    if "layers" not in root and "_layer_checkpoint_dependencies" not in root:
        raise UserError(f"{path}: no layers in it", "Save it with Keras: model.save(FILE) or save_weights.")
    layers = root["layers"] if "layers" in root else root["_layer_checkpoint_dependencies"]
    for key in layers:
        variables = layers[key].get("vars")
        if variables is None or not len(variables):
            continue
        if "name" not in variables.attrs:
            raise UserError(
                f"{path}: layers have no names, as in files of early versions of Keras 3",
                "Save it again with a newer Keras, or as .h5.",
            )
        parts = _NORM if len(variables) == len(_NORM) else ("kernel", "bias")
        if len(variables) > len(parts):
            raise UserError(f"{path}: the layer {_text(variables.attrs['name'])} has {len(variables)} arrays")
        yield (
            _text(variables.attrs["name"]),
            [(part, _array(variables, str(place))) for place, part in enumerate(parts[: len(variables)])],
        )


def _parts(path: Path, layer: str, arrays: list[tuple[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    parts = {}
    for name, array in arrays:
        part = "kernel" if name == "depthwise_kernel" else name
        if part not in (*_NORM, "kernel", "bias"):
            raise UserError(
                f"{path}: {layer}/{name} is no array of a convolution, a dense layer or a batch norm",
                "Networks of other layers cannot be taken over.",
            )
        parts[part] = array[np.newaxis, np.newaxis] if part == "kernel" and array.ndim == 2 else array
    return parts


def _array(group: Any, name: str) -> NDArray[Any]:
    """Read a dataset of this very file: a link to another file is refused."""
    place, parent = name.split("/"), group
    for part in place:
        if not isinstance(parent.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"{name} is a link to another place, which is not followed")
        parent = parent[part]
    if not isinstance(parent, h5py.Dataset) or parent.is_virtual or parent.external:
        raise UserError(f"{name} is no array of this file")
    return np.asarray(parent[...])


def _text(name: Any) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
