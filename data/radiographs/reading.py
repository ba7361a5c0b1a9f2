"""Reading of a folder's radiographs, at the size of a network.

`read_all` returns for each file, in order, exactly the float32 image that preprocessing would have stored, so
that prediction from files equals evaluation on a data file. Worker processes read the files, a few ahead of
the consumer. A file that cannot be read, or that kills its worker, gives a reason instead of an image, and
the other files are still read.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.processes.pool import MapInOrder, map_in_order
from data.annotations.image_ids import Identities, image_id, name_below, printable
from data.radiographs import dicom
from data.radiographs.clahe import Clahe
from data.radiographs.headers import UNKNOWN_GEOMETRY, Geometry, geometry
from data.radiographs.network_image import network_image


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Attributes:
        file: The file's path.
        name: Its path below the images' folder, in characters that can be printed and stored.
        image_id: The image id (`data.annotations.image_ids`).
        uid: The SOP Instance UID, or "".
        height: Rows of the original image, in pixels; 0 if it cannot be read.
        width: Columns of the original image, in pixels; 0 if it cannot be read.
        geometry: Size of a pixel and orientation.
        note: A remark on how the file was read, or "".
        reason: The reason why it cannot be read, or "".
    """

    file: Path
    name: str
    image_id: str
    uid: str = ""
    height: int = 0
    width: int = 0
    geometry: Geometry = UNKNOWN_GEOMETRY
    note: str = ""
    reason: str = ""


class Reading(NamedTuple):
    """A file and its image, (height, width) float32 in [0, 1] at the network's size; None if unreadable."""

    source: ImageFile
    image: NDArray[np.float32] | None


class _ReadSettings(NamedTuple):
    """The settings of a worker, sent once to each."""

    folder: Path
    identities: Identities
    height: int
    width: int
    clahe: Clahe | None


_settings: _ReadSettings | None = None  # set only in the workers, before their first file


def read_all(
    folder: Path,
    files: Sequence[Path],
    height: int,
    width: int,
    *,
    clahe: Clahe | None = None,
    workers: int,
    mapping: MapInOrder = map_in_order,
) -> Generator[Reading, None, None]:
    """Read image files in worker processes.

    Args:
        folder: The images' folder.
        files: The result of `data.radiographs.dicom.find`.
        height: Rows of the resized images.
        width: Columns of the resized images.
        clahe: How the resized images are equalised; None leaves them as they are.
        workers: Number of worker processes.
        mapping: Does what `map_in_order` does.

    Yields:
        One reading for each file, in their order.
    """
    settings = _ReadSettings(folder, Identities.of(None, files), height, width, clahe)
    crashed = functools.partial(_crashed, folder=folder)
    return mapping(_read, files, workers=workers, on_crash=crashed, prepare=_prepare, arguments=(settings,))


def _prepare(settings: _ReadSettings) -> None:
    global _settings
    _settings = settings


def _image_file(file: Path, folder: Path) -> ImageFile:
    return ImageFile(file, name_below(folder, file), image_id(file))


def _crashed(file: Path, folder: Path) -> Reading:
    return Reading(replace(_image_file(file, folder), reason=dicom.KILLED), None)


def _read(file: Path) -> Reading:
    """Read one file, in a worker."""
    assert _settings is not None
    source = _image_file(file, _settings.folder)
    try:
        dataset = dicom.read_dataset(file)
        uid = dicom.sop_instance_uid(dataset)
        source = replace(source, image_id=_settings.identities.choose(file, uid), uid=uid)
        radiograph = dicom.radiograph(file, dataset)
    except dicom.UnreadableImage as error:
        return Reading(replace(source, reason=printable(error.reason)), None)
    height, width = radiograph.values.shape
    source = replace(source, height=height, width=width, geometry=geometry(dataset), note=radiograph.note)
    size = _settings.height, _settings.width
    return Reading(source, network_image(radiograph.values, *size, radiograph.full, _settings.clahe))
