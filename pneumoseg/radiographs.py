"""Read radiographs from DICOM files, their bytes, pydicom data sets or arrays.

The pixels equal those that preprocessing and `predict` read from the same file, bit for bit. A file that they
cannot read is unreadable here too, for the same reason.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from core.base.errors import UserError
from data.annotations.image_ids import image_id, printable, trimmed
from data.pixel_data.pixel_format import MOST_PIXELS
from data.radiographs import dicom
from data.radiographs.headers import UNKNOWN_GEOMETRY, Geometry, geometry
from data.radiographs.resize import resize_image

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = "PathLike | bytes | Dataset | NDArray[Any] | Radiograph"
"""The types that can be predicted: a DICOM file, its bytes, a data set, an array, or a `Radiograph`."""

_WHOLE = (np.uint8, np.uint16)


class UnreadableImage(UserError):  # noqa: N818  as data.radiographs.dicom calls it
    """A file, data set or array that cannot be read as a radiograph.

    Args:
        source: The name of the file, data set or array, for people.
        reason: Why it cannot be read, in one line.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return UnreadableImage, (self.source, self.reason)


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One radiograph.

    Attributes:
        values: (height, width) uint8, uint16 or float32 in [0, full], bright means dense. It is read-only.
        full: The value of a white pixel.
        id: The image's id: the name of its file without suffix, else its SOP Instance UID, else "".
        uid: SOP Instance UID, "" if there is none.
        notes: Remarks on the image ("the first of 3 frames"), or "".
        geometry: Pixel size and orientation from the header.
    """

    values: NDArray[Any]
    full: float
    id: str = ""
    uid: str = ""
    notes: str = ""
    geometry: Geometry = UNKNOWN_GEOMETRY

    @classmethod
    def from_array(
        cls,
        array: NDArray[Any],
        *,
        full: float | None = None,
        id: str = "",  # noqa: A002  as the attribute
        spacing: tuple[float, float] | None = None,
    ) -> Radiograph:
        """Return a radiograph with the given pixels.

        Args:
            array: (height, width), bright means dense: uint8, uint16, float32 or float64.
            full: The value of a white pixel. None is the maximum of an integer type, and 1 for float types.
            id: The image's id.
            spacing: Height and width of a pixel in mm, if known.

        Raises:
            UnreadableImage: The array has another shape or type, or values outside [0, full].
        """
        name = f"the array {id!r}" if id else "the array"
        values = _checked(name, array, full)
        place = Geometry() if spacing is None else Geometry(_checked_spacing(name, spacing), "given")
        return cls(values, float(_full_of(values) if full is None else full), id, geometry=place)

    @functools.cached_property
    def image(self) -> NDArray[np.float32]:
        """The pixels as (height, width) float32 in [0, 1]; the array is read-only."""
        pixels: NDArray[np.float32] = np.divide(self.values, np.float32(self.full), dtype=np.float32)
        return _read_only(pixels)

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.values.shape[1])

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Height and width of a pixel in mm; None if unknown.

        `geometry.at` is the attribute it comes from: "PixelSpacing", or "ImagerPixelSpacing", which holds at
        the detector, where everything appears magnified (DICOM PS3.3 10.7).
        """
        return self.geometry.spacing

    def resized(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the image at another size: (height, width) float32 in [0, 1].

        A network gets it so, unless it was trained on equalised images (`preprocess --clahe`).
        """
        return resize_image(self.values, height, width, self.full)


def find_radiographs(folder: PathLike) -> list[Path]:
    """Return the DICOM files in a folder, at any depth, in an order that does not depend on the system.

    Raises:
        Error: The folder does not exist, or it cannot be listed.
    """
    place = Path(folder)
    if not place.is_dir():
        what = "is not a folder" if place.exists() else "does not exist"
        raise UserError(f"the images folder {place} {what}.")
    return dicom.find(place)


def read_radiograph(source: Source) -> Radiograph:
    """Read a radiograph.

    Args:
        source: A DICOM file, or its bytes; a pydicom data set; or an array, as for `Radiograph.from_array`.

    Raises:
        UnreadableImage: It is not DICOM, has colours, is truncated, has an impossible header, …
    """
    if isinstance(source, Radiograph):
        return source
    if isinstance(source, np.ndarray):
        return Radiograph.from_array(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_dataset(Path("<bytes>"), functools.partial(dicom.parse, Path("<bytes>"), bytes(source)))
    if isinstance(source, Dataset):
        return _from_dataset(_place_of(source), lambda: source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _from_dataset(path, functools.partial(dicom.read_dataset, path))
    raise TypeError(f"expected a path, bytes, a pydicom Dataset or an array. Received: {type(source)}")


def _place_of(dataset: Dataset) -> Path:
    """Return the path that a data set was read from, or a placeholder."""
    name = getattr(dataset, "filename", None)
    return Path(os.fspath(name)) if isinstance(name, str | os.PathLike) else Path("<data set>")


def _from_dataset(path: Path, read: Any) -> Radiograph:
    try:
        dataset = read()
        found = dicom.radiograph(path, dataset)
    except dicom.UnreadableImage as error:
        raise UnreadableImage(printable(str(path)), printable(error.reason)) from error
    uid = trimmed(printable(dicom.sop_instance_uid(dataset)))
    named = uid if str(path).startswith("<") else image_id(path)
    values = _read_only(np.ascontiguousarray(found.values))
    return Radiograph(values, found.full, named, uid, found.note, geometry(dataset))


def _checked(name: str, array: NDArray[Any], full: float | None) -> NDArray[Any]:
    """Return a read-only copy of an array after checking that it can be a radiograph."""
    if array.ndim != 2 or not array.size:
        raise UnreadableImage(name, f"expected (height, width). Received the shape {array.shape}")
    if array.size > MOST_PIXELS:
        raise UnreadableImage(name, f"it has {array.size:,} pixels; the limit is {MOST_PIXELS:,}")
    kind = array.dtype.newbyteorder("=")
    if kind not in (*_WHOLE, np.float32, np.float64):
        raise UnreadableImage(
            name, f"expected uint8, uint16, float32 or float64. Received the type {array.dtype}"
        )
    values = np.array(array, dtype=kind if kind in _WHOLE else np.float32, order="C")
    greatest = _full_of(values) if full is None else full
    if not 0 < greatest < np.inf:
        raise UnreadableImage(name, f"full must be a number above 0. Received: {full!r}")
    if not (values.min() >= 0 and values.max() <= greatest):  # false for NaN too
        raise UnreadableImage(
            name, f"expected values from 0 to {greatest:g}. Received {values.min()} to {values.max()}"
        )
    return _read_only(values)


def _full_of(values: NDArray[Any]) -> float:
    return float(np.iinfo(values.dtype).max) if values.dtype.kind == "u" else 1.0


def _checked_spacing(name: str, spacing: tuple[float, float]) -> tuple[float, float]:
    if len(spacing) != 2 or not all(0 < value < np.inf for value in spacing):
        raise UnreadableImage(name, f"spacing: expected two numbers above 0, in mm. Received: {spacing!r}")
    return float(spacing[0]), float(spacing[1])


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    values = values.view()
    values.flags.writeable = False
    return values
