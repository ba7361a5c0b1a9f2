"""Write files with one Python and read them with another; return the content of both for comparison.

The content that `write` writes depends only on this module, so every Python writes the same. `read` returns
the content of files written by any Python: each array with a digest of its bytes. This is a module of the
tests and also a program, which does not need pytest:

    python tests/exchange.py write FOLDER    one data file, one checkpoint of each precision
    python tests/exchange.py read FOLDER     prints what is in the files there, as JSON
    python tests/exchange.py data FILE       prints what is in any data file, as JSON
    python tests/exchange.py facts           prints the versions, as JSON
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
from numpy.typing import NDArray

from backends.reference import backend as reference
from core.backend.state import state_shapes
from core.base.randomness import uniform, words
from core.experiment.checkpoint import (
    Checkpoint,
    DataFacts,
    EpochRecord,
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from core.experiment.configuration import Configuration, parse_configuration
from core.network.lowering import lower
from data.annotations import rle
from data.batches.augmentation import AugmentationSettings
from data.batches.loader import Loader
from data.batches.sampling import SamplingSchedule
from data.hdf5.file_writing import ImageMetadata, write
from data.hdf5.store import Store

DATA = "data.h5"
CHECKPOINTS = {"float32": "float32.safetensors", "float64": "float64.safetensors"}
HEIGHT, WIDTH, COUNT = 12, 20, 11
ALTERED = AugmentationSettings(0.5, 0.2, 0.2, 20, 1, 0.2, 0.2, 0.5, 1, 0.1)

_IDS = [f"1.2.276.0.{number}.ä" if number % 3 else f"image-{number}" for number in range(COUNT)]
_PATIENTS = ["" if number % 4 == 0 else f"patient {number // 3}" for number in range(COUNT)]
_ODD = (-0.0, 0.1, 1 / 3, -1e-40, 5e-324, 3.4028234663852886e38, 2.0**-149, -(2.0**-126))
"""Values that formats may change: negative zero, subnormal numbers, the maximum of float32."""


def facts() -> dict[str, str]:
    """Return the versions that may make a difference."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }


def write_files(folder: Path) -> dict[str, dict[str, str]]:
    """Write all files; return the content that `read_files` must find in them."""
    content = {}
    for storage in ("float32", "uint8"):
        content[f"{storage} {DATA}"] = _write_data(folder / f"{storage}-{DATA}", storage)
    for precision, name in CHECKPOINTS.items():
        made = checkpoint(precision)
        save_checkpoint(folder / name, made)
        content[name] = checkpoint_content(made)
    return content


def read_files(folder: Path) -> dict[str, dict[str, str]]:
    """Return the content of the files."""
    content = {}
    for storage in ("float32", "uint8"):
        content[f"{storage} {DATA}"] = data_content(folder / f"{storage}-{DATA}")
    for name in CHECKPOINTS.values():
        content[name] = checkpoint_content(load_checkpoint(folder / name))
    return content


def digest(array: NDArray[Any]) -> str:
    """Return type, shape and a hash of an array's bytes in little-endian order."""
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return f"{array.dtype.name} {array.shape} {hashlib.sha256(little.tobytes()).hexdigest()}"


def configuration(precision: str) -> Configuration:
    """Return a configuration with running statistics, a skip and an optimiser with moments."""
    return parse_configuration(
        {
            "network": {
                "blocks": [
                    {"name": "first", "kind": "conv", "filters": 3, "stride": 1},
                    {"name": "down", "kind": "conv", "filters": 5},
                    {"name": "up", "kind": "transpose", "filters": 4},
                    {"name": "mask", "kind": "output", "stride": 1, "skip": "first"},
                ]
            },
            "training": {"precision": precision, "seed": 3, "optimizer": {"learning_rate": 1 / 3}},
        }
    )


def checkpoint(precision: str) -> Checkpoint:
    """Return the checkpoint of a run stopped in its third epoch, with values that formats may change."""
    chosen = configuration(precision)
    plan = lower(chosen.network, HEIGHT, WIDTH)
    kind = np.dtype(precision)
    arrays = {}
    for name, shape in state_shapes(plan, chosen.training.rules()).items():
        array = (uniform(5, "state", name, shape=shape) - 0.5).astype(kind)
        odd = np.array(_ODD).astype(kind)[: array.size]
        array.ravel()[: len(odd)] = odd
        arrays[name] = array
    history = tuple(
        EpochRecord(
            epoch=epoch,
            loss=float(np.float64(1) / 3 / epoch),
            validation_loss=float(np.float32(0.1)) * epoch,
            dice=1 - 0.1 * epoch,
            dice_all_empty=2 / 3,
            dice_positive=None if epoch == 1 else 0.1 + 0.2,
            learning_rate=1e-5 / epoch,
            images_per_second=123.456,
            scored_on="validation",
            step=7 * epoch,
        )
        for epoch in (1, 2)
    )
    progress = Progress(17, 3, 0.1 + 0.7, 41, 1e-9, history)
    return Checkpoint(chosen, DataFacts(COUNT, 5, HEIGHT, WIDTH), progress, arrays)


def checkpoint_content(found: Checkpoint) -> dict[str, str]:
    """Return the content of a checkpoint, and the state of the NumPy backend that loaded its arrays."""
    plan = lower(found.configuration.network, found.data.height, found.data.width)
    settings = found.configuration.training
    model = reference.load().compile(plan, settings.rules(), "cpu", settings.precision)
    model.load_state(found.arrays)
    return {
        "configuration": json.dumps(found.configuration.model_dump(mode="json"), sort_keys=True),
        "data": json.dumps(dataclasses.asdict(found.data)),
        "progress": json.dumps(dataclasses.asdict(found.progress)),
        **{f"array {name}": digest(array) for name, array in found.arrays.items()},
        **{f"state {name}": digest(array) for name, array in model.state().items()},
    }


def data_content(path: Path) -> dict[str, str]:
    """Return the content of a data file, and the batches of an epoch."""
    with Store.open(path) as store:
        every = np.arange(store.count)
        images = np.empty((store.count, store.height, store.width, 1), np.float32)
        masks = np.empty(images.shape, np.uint8)
        store.read(every, images, masks)
        content = _rows_content(images, masks, store.sizes, store.positive)
        content["ids"], content["patients"] = json.dumps(store.ids), json.dumps(store.patients)
        content["attributes"] = json.dumps(store.attributes, sort_keys=True)
        for index in range(store.count):
            content[f"truth {index}"] = digest(store.truth(index))
        loader = Loader(store, every, 4, 6, SamplingSchedule(0.75, 0.25, 3), ALTERED)
        for number, batch in enumerate(loader.epoch(2)):
            content[f"batch {number}"] = json.dumps(batch.indices.tolist())
            content[f"images {number}"], content[f"masks {number}"] = (
                digest(batch.images),
                digest(batch.masks),
            )
    return content


def _rows_content(
    images: NDArray[np.float32], masks: NDArray[np.uint8], sizes: NDArray[Any], positive: NDArray[np.bool_]
) -> dict[str, str]:
    arrays = {"images": images, "masks": masks, "sizes": sizes, "positive": positive}
    return {name: digest(array) for name, array in arrays.items()}


def _write_data(path: Path, storage: str) -> dict[str, str]:
    """Write noise in three datasets, two of five images and one of one; half of the images have a mask."""
    drawn = words(9, "pixels", count=COUNT * HEIGHT * WIDTH).reshape(COUNT, HEIGHT, WIDTH)
    bytes_of_it = (drawn >> np.uint64(56)).astype(np.uint8)
    pixels = bytes_of_it
    if storage == "float32":
        pixels = ((drawn >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)
    masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for number in range(0, COUNT, 2):
        masks[number, 1 + number // 2 : 5 + number // 2, number : number + 7] = 1
    sizes = np.tile(np.array([HEIGHT, WIDTH], np.int32), (COUNT, 1))
    positive = masks.any(axis=(1, 2))
    runs = [rle.runs(rle.encode(mask)) for mask in masks]
    rows = ImageMetadata(_IDS, sizes, positive, _PATIENTS, runs)
    attributes: dict[str, str | int | float] = {"fraction": 1 / 3, "number": 2**40, "text": "ä b"}
    blocks = iter([(pixels, masks)])
    write(path, rows, (HEIGHT, WIDTH), blocks, per_dataset=5, storage=storage, attributes=attributes)
    shown = pixels if storage == "float32" else bytes_of_it / np.float32(255)
    content = _rows_content(shown[..., np.newaxis], masks[..., np.newaxis], sizes, positive)
    content["ids"], content["patients"] = json.dumps(_IDS), json.dumps(_PATIENTS)
    return content | {f"truth {number}": digest(mask) for number, mask in enumerate(masks)}


def main(words_: list[str]) -> int:
    """Run the program."""
    actions: dict[str, Callable[[Path], object]] = {
        "write": write_files,
        "read": read_files,
        "data": data_content,
    }
    print(json.dumps(facts() if words_[0] == "facts" else actions[words_[0]](Path(words_[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
