"""The radiographs of a folder, one after another, ready for a network.

Promises: `read_all` gives for each file, in order, what preprocessing would have stored of it as float32,
to the bit, so that predicting from files equals evaluating on a data file. Files are read in other
processes, a few ahead of what was taken; a file that cannot be read, or that kills the process, gives a
reason instead of an image, and the rest goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.processes.pool import map_in_order
from data.annotations.image_ids import Identities, image_id, name_below, printable
from data.radiographs import dicom
from data.radiographs.headers import UNKNOWN_GEOMETRY, Geometry, geometry
from data.radiographs.resize import resize_image


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        file: Where it is.
        name: Its path below the images' folder, in characters that can be printed and stored.
        image_id: What its image is called: see `data.annotations.image_ids`.
        uid: Its SOP Instance UID, "" if it has none.
        height: Rows of the original image, in pixels; 0 if it cannot be read.
        width: Columns.
        geometry: Size of a pixel and orientation.
        note: What a careful reader would want to know, or "".
        reason: Why it cannot be read, or "".
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

    source: Source
    image: NDArray[np.float32] | None


class _Job(NamedTuple):
    """What a worker needs to know besides the file; sent once to each."""

    folder: Path
    identities: Identities
    height: int
    width: int


_job: _Job | None = None  # set in the workers only, before their first file


def read_all(
    folder: Path, files: Sequence[Path], height: int, width: int, *, workers: int
) -> Generator[Reading, None, None]:
    """Read files.

    Args:
        folder: The images' folder.
        files: What `data.radiographs.dicom.find` found in it.
        height: Rows of the images wanted.
        width: Columns of the images wanted.
        workers: Processes.

    Yields:
        One reading a file, in their order.
    """
    job = _Job(folder, Identities.of(None, files), height, width)
    crashed = functools.partial(_crashed, folder=folder)
    return map_in_order(_read, files, workers=workers, on_crash=crashed, prepare=_prepare, arguments=(job,))


def _prepare(job: _Job) -> None:
    global _job
    _job = job


def _source(file: Path, folder: Path) -> Source:
    return Source(file, name_below(folder, file), image_id(file))


def _crashed(file: Path, folder: Path) -> Reading:
    return Reading(replace(_source(file, folder), reason=dicom.KILLED), None)


def _read(file: Path) -> Reading:
    """Read one file, in a worker."""
    assert _job is not None
    source = _source(file, _job.folder)
    try:
        dataset = dicom.read_dataset(file)
        uid = dicom.sop_instance_uid(dataset)
        source = replace(source, image_id=_job.identities.choose(file, uid), uid=uid)
        radiograph = dicom.radiograph(file, dataset)
    except dicom.UnreadableImage as error:
        return Reading(replace(source, reason=printable(error.reason)), None)
    height, width = radiograph.values.shape
    source = replace(source, height=height, width=width, geometry=geometry(dataset), note=radiograph.note)
    return Reading(source, resize_image(radiograph.values, _job.height, _job.width, radiograph.full))
