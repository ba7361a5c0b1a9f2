"""Conversion of one source file to a row of the data file: its image, and its mask if there are annotations.

Worker processes run `convert_and_store`, which writes the row at its place in the staging folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.files.system_errors import explain_os_errors
from data.annotations.annotation_file import AnnotationError, combined_mask
from data.annotations.image_ids import Identities, image_id, printable
from data.hdf5 import file_format
from data.hdf5.row_layout import Layout, RowFile
from data.preprocessing.settings import PreprocessingSettings, Storage
from data.preprocessing.staging import JournalEntry, checksum
from data.radiographs import dicom, headers
from data.radiographs.network_image import network_image
from data.radiographs.resize import resize_mask


class ConvertedFile(NamedTuple):
    """The result for one file. The row is the image and its mask, the image alone, or empty."""

    entry: JournalEntry
    row: tuple[NDArray[Any], ...] = ()


class WorkerContext(NamedTuple):
    """Everything that a worker needs besides the file; each worker gets it once."""

    settings: PreprocessingSettings
    identities: Identities
    patient_key: bytes
    rows: Path
    layout: Layout


class SourceFile(NamedTuple):
    """A file, its path below the images folder, and the place of its row."""

    file: Path
    name: str
    place: int


_context: WorkerContext | None = None  # set only in the workers, before their first file
_rows: RowFile | None = None


def set_worker_context(context: WorkerContext) -> None:
    """Prepare a worker process, before its first file."""
    global _context
    _context = context


def _worker_rows(context: WorkerContext) -> RowFile:
    """Return this worker's file of rows. It is opened at first use, so that the caller gets a failure."""
    global _rows
    if _rows is None:
        _rows = RowFile(context.rows, context.layout)
    return _rows


def convert_and_store(source: SourceFile) -> JournalEntry:
    """Convert one file in a worker, and write its row to the staging folder."""
    assert _context is not None
    entry, row = convert(source.file, source.name, _context)
    if row:
        with explain_os_errors(_context.rows.parent, "write"):
            _worker_rows(_context).put(source.place, row)
    return entry


def convert(file: Path, name: str, context: WorkerContext) -> ConvertedFile:
    """Read one file, find its annotations and resize both.

    Returns:
        The entry for the journal. With status "kept" also the image (size, size) in the storage's type and,
        if there are annotations, the mask (size, size) uint8. The other statuses are "unreadable", "without
        annotation" and "bad annotation".
    """
    settings, rows_of = context.settings, context.identities.rows_of
    entry = JournalEntry(name, "unreadable", image_id=image_id(file))
    try:
        dataset = dicom.read_dataset(file)
        chosen = context.identities.choose(file, dicom.sop_instance_uid(dataset))
        patient = "" if settings.ignore_patients else headers.patient_hash(dataset, context.patient_key)
        entry = replace(entry, image_id=chosen, patient=patient, **headers.coding(dataset)._asdict())
        if rows_of is not None and chosen not in rows_of:
            dicom.check(file, dataset)
            return ConvertedFile(replace(entry, status="without annotation"))
        radiograph = dicom.radiograph(file, dataset)
    except dicom.UnreadableImage as error:
        return ConvertedFile(replace(entry, reason=printable(error.reason)))
    height, width = radiograph.values.shape
    entry = replace(entry, height=height, width=width, reason=radiograph.note)
    size = settings.size, settings.size
    image = network_image(radiograph.values, *size, radiograph.full, settings.equalization)
    row = [_to_storage(image, settings.storage)]
    if rows_of is not None:
        row.append(np.zeros_like(image, np.uint8))
        if any(not one.empty for one in rows_of[chosen]):  # about one image in five
            try:
                full = combined_mask(rows_of[chosen], height, width)
            except AnnotationError as error:
                return ConvertedFile(replace(entry, status="bad annotation", reason=str(error)))
            row[1] = resize_mask(full, settings.size, settings.size)
            left = bool(row[1].any())
            positive = left or bool(full.any())
            entry = replace(entry, positive=positive, vanished=positive and not left)
    return ConvertedFile(replace(entry, status="kept", checksum=checksum(*row)), tuple(row))


def _to_storage(image: NDArray[np.float32], storage: Storage) -> NDArray[Any]:
    if storage == "float32":
        return image
    rounded: NDArray[np.uint8] = np.rint(image * np.float32(file_format.SCALE)).astype(np.uint8)
    return rounded


def killed_worker_entry(source: SourceFile) -> JournalEntry:
    """Return the entry for a file during whose conversion the worker died."""
    return JournalEntry(source.name, "unreadable", dicom.KILLED, image_id(source.file))
