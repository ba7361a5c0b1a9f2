"""The format of the data file between preprocessing and training (`pneumothorax.h5`), and its checks.

This module has the names and limits of the format and the checks that readers share. Each check raises a
`UserError` that names the file, the dataset, what was found and what was expected.
`data.hdf5.file_writing` writes such files; `data.hdf5.store` reads them.

    images_<n>    (k, H, W, 1)  float32 in [0, 1], or uint8 with the attribute `scale` (value / scale)
    ann_<n>       (k, H, W, 1)  uint8 in {0, 1}
    ids_<n>       (k,)          UTF-8 strings: image ids
    sizes_<n>     (k, 2)        int32: height and width of the original image
    positive_<n>  (k,)          uint8: 1 if the annotation at the original size is not empty
    patients_<n>  (k,)          UTF-8 strings: equal for images of one patient, "" if the patient is unknown
    views_<n>     (k,)          UTF-8 strings: the view, "AP" or "PA" or another term of DICOM, "" if unknown
    sexes_<n>     (k,)          UTF-8 strings: the patient's sex, "F", "M" or "O", "" if unknown
    ages_<n>      (k,)          int16: the patient's age in years, at most 90; -1 if unknown
    runs_<n>      (m, 3)        int64: the annotations at the original size, as runs of pixels

A row of `runs_<n>` has the index of an image in `images_<n>`, the index of the first pixel of a run, and the
index after its last pixel. Pixels are counted column by column, as in `data.annotations.rle`. Rows ascend;
runs neither overlap nor touch. `ann_<n>` was made from these runs, and scores at the original size are
computed against them.

Patient names do not identify a person. By default they are numbers, counted in the order in which patients
first appear, so the same sources always give the same numbers. If the user keeps a key, they are keyed hashes
(`data.radiographs.headers.patient_hash`), which are equal in all files made with that key.

`views_<n>`, `sexes_<n>` and `ages_<n>` are there if any image has a value (`data.radiographs.headers`).

A file of images without annotations has the attribute `annotated` = false and no `ann_<n>`, `positive_<n>`
or `runs_<n>`: empty masks would claim that nobody is ill. It can be read for prediction; asking it for masks
or positives raises a `UserError`.

If the images were equalised (`data.radiographs.clahe`), the attributes `clahe_limit` and `clahe_tiles` say
how. A network that is trained on them gets new images equalised in the same way.

`n` counts from 0 without gaps. k is the same in all datasets but the last, which may be shorter. The layout
is contiguous, because it is the fastest to read image by image into an existing batch. A file with only
`images_<n>` and `ann_<n>` can be read too: its ids are "0", "1", …, and the positives are found in the masks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from core.base.byte_images import WHITE
from core.base.errors import UserError
from core.base.programs import command_line
from core.files.system_errors import explain_os_errors
from data.radiographs.clahe import LIMITS, MOST_TILES, Clahe

FORMAT = "pneumoseg-data"
FORMAT_VERSION = 3
SCALE = float(WHITE)
"""The divisor of uint8 images."""

GREATEST_SIZE = 8192
"""The largest height and width of a stored image that `preprocess` writes, in pixels."""

LOCKING = False
"""Whether HDF5 locks files. This project's files are complete when they get their names, and
`core.files.locks` keeps other writers away. HDF5's "best-effort" still fails where a file system says ENOLCK
or EOPNOTSUPP instead of ENOSYS."""

READ_ERRORS = (KeyError, OSError, RuntimeError, TypeError, ValueError)
"""The exceptions that h5py raises for a damaged file."""

COLUMNS = ("images", "ann", "ids", "sizes", "positive", "patients", "views", "sexes", "ages", "runs")
"""The names of the datasets, without their numbers."""

CLAHE = "clahe_limit", "clahe_tiles"
"""The names of the attributes about the equalisation of the images, in the order of `Clahe`."""

_LARGEST_ATTRIBUTE = 1 << 16  # bytes; those of this project have less than a hundred
_PLAIN_CLASSES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)
_NUMBERED = re.compile(rf"({'|'.join(COLUMNS)})_(0|[1-9][0-9]{{0,8}})")


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, whatever it contains.

    Raises:
        UserError: The file is missing, not HDF5, or cut off.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"the data file {path} {what}.", preprocess_hint())
    with explain_os_errors(path, "read"):
        path.open("rb").close()
    try:
        return h5py.File(path, "r", locking=LOCKING)
    except OSError as error:
        if "unable to lock" in str(error):  # an environment variable can still turn locks on
            hint = "Unset HDF5_USE_FILE_LOCKING, or wait for whoever has the file open."
            raise UserError(f"cannot read {path}: HDF5 cannot lock it: {error}.", hint) from error
        raise UserError(f"{path} is not a whole HDF5 file: {error}.", preprocess_hint()) from error


def dataset_numbers(path: Path, file: h5py.File) -> dict[str, set[int]]:
    """Return the numbers of the file's datasets by name ("images", "ann", ...).

    Raises:
        UserError: There are no images, so this is another kind of file.
    """
    numbers: dict[str, set[int]] = {name: set() for name in COLUMNS}
    try:
        keys = [str(key) for key in file]  # h5py gives a name that is not UTF-8 as bytes
    except READ_ERRORS as error:
        raise UserError(f"{path} is damaged: {error}.", preprocess_hint()) from error
    for key in keys:
        match = _NUMBERED.fullmatch(key)
        if match:
            numbers[match[1]].add(int(match[2]))
    if not numbers["images"]:
        found = ", ".join(sorted(keys)[:8]) or "nothing"
        raise format_error(path, "images_0", f"no such dataset (the file has {found})", "it")
    return numbers


def is_annotated(file: h5py.File) -> bool:
    """Return whether a file should have masks: yes, unless its attribute `annotated` is false."""
    return read_attribute(file, "annotated") is not False


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Return the attributes of a file that are single values, as Python values."""
    try:
        names = [str(name) for name in file.attrs]
    except READ_ERRORS:
        return {}
    found = {name: read_attribute(file, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def read_attribute(of: h5py.File | h5py.Dataset, name: str) -> Any:
    """Return an attribute that is one number, truth value or string of fixed length; None for all others.

    Strings of variable length and arrays are not read. The strings lie in HDF5's global heap, and HDF5 never
    finishes reading a damaged heap; a damaged array may claim to be huge.
    """
    try:
        attribute_id = of.attrs.get_id(name)
        kind = attribute_id.get_type()
        if attribute_id.shape != () or kind.get_size() > _LARGEST_ATTRIBUTE:
            return None
        variable = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
        if kind.get_class() not in _PLAIN_CLASSES or variable:
            return None
        value = of.attrs[name]
        value = value.item() if isinstance(value, np.generic) else value
        return value.decode() if isinstance(value, bytes) else value
    except READ_ERRORS:
        return None


def equalization(attributes: Mapping[str, Any]) -> Clahe | None:
    """Return how a file's images were equalised, from its attributes; None if they were not.

    Raises:
        ValueError: One of the attributes is missing or wrong; the message says what is expected.
    """
    found = [attributes.get(name) for name in CLAHE]
    limit, tiles = found
    if limit is None and tiles is None:
        return None
    least, most = LIMITS
    if not (isinstance(limit, float) and least <= limit <= most):
        raise ValueError(f"a number from {least:g} to {most:g} in {CLAHE[0]}")
    if not (isinstance(tiles, int) and 1 <= tiles <= MOST_TILES):
        raise ValueError(f"a whole number from 1 to {MOST_TILES} in {CLAHE[1]}")
    return Clahe(limit, tiles)


def checked_dataset(
    path: Path, file: h5py.File, name: str, shape: tuple[int | None, ...], least: int = 1
) -> h5py.Dataset:
    """Return the dataset of a name, after checking its shape. None in a shape allows any length >= `least`.

    Raises:
        UserError: There is no dataset of that name, or it has another shape.
    """
    expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
    try:
        dataset = file.get(name)
        getattr(dataset, "dtype", None)  # a damaged dataset raises here
    except READ_ERRORS as error:
        raise format_error(path, name, f"damage ({error})", f"shape {expected}") from error
    if not isinstance(dataset, h5py.Dataset):
        found = "no such dataset" if dataset is None else "something else than a dataset"
        raise format_error(path, name, found, f"shape {expected}")
    actual = dataset.shape
    fits = actual is not None and len(actual) == len(shape)
    if not fits or any(
        n < least if want is None else n != want for n, want in zip(actual, shape, strict=True)
    ):
        raise format_error(path, name, f"shape {actual}", f"shape {expected}")
    return dataset


def image_scale(path: Path, number: int, images: h5py.Dataset) -> float | None:
    """Return the scale of uint8 images, None for float32 images.

    Raises:
        UserError: The images have another type, or lack a scale.
    """
    if images.dtype == np.float32:
        return None
    if images.dtype != np.uint8:
        raise format_error(path, f"images_{number}", f"type {images.dtype}", "float32 or uint8")
    scale = read_attribute(images, "scale")
    if not isinstance(scale, (int, float)) or not 0 < scale < np.inf:
        raise format_error(path, f"images_{number}", "uint8 without a scale", "an attribute 'scale' > 0")
    return float(scale)


def preprocess_hint() -> str:
    """Return the hint of errors about a data file: the command that makes one."""
    options = ("--images", "dicom-images-train", "--annotations", "train-rle.csv")
    return f"Make one with: {command_line('preprocess', *options)}"


def format_error(path: Path, name: str, found: str, expected: str) -> UserError:
    """Return the error for a dataset that breaks the format."""
    return UserError(f"{path}, dataset {name}: found {found}, expected {expected}.", preprocess_hint())


def damage_error(path: Path, error: BaseException) -> BaseException:
    """Return the exception to raise for one met in an open file: h5py raises any kind for a damaged file."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    return UserError(f"{path} is damaged: {type(error).__name__}: {error}.", preprocess_hint())


def no_annotations_error(path: Path) -> UserError:
    """Return the error for a request for masks of a file without annotations."""
    return UserError(
        f"{path} has images without annotations (it was made with --no-annotations): they can be "
        "predicted on, but neither trained on nor scored.",
        preprocess_hint(),
    )
