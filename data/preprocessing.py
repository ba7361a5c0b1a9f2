"""From a folder of radiographs and an annotation file to one HDF5 file.

Promises: the output appears under its name only when it is whole; an existing one is never replaced
unasked. The same sources and settings give the same arrays whatever the number of workers, and
whether or not the work was interrupted: started again, it goes on where it was. Every file and every
annotated image is accounted for in the `Report`. Nothing is labelled wrongly to save an image:

    no annotation row             left out of the file       `without_annotation`
    annotation malformed or       left out                   `bad_annotation`, with the row's number
    outside of the image
    file unreadable               left out                   `unreadable`, with the reason
    id seen before                the first file is kept     `duplicates`
    annotation without a file     nothing to do              `without_image`

An image belongs to the annotations of its file's stem (in the competition that is the SOP Instance
UID), or else of its SOP Instance UID. This module prints nothing: progress goes to a callback.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files import explained, replacing
from data import dicom, frames, store
from data.annotations import AnnotationError, Annotations, Row, combined_mask, read_annotations
from data.pool import UNDER_WAY, available_cores, ordered
from data.resize import resize_image, resize_mask
from data.staging import Entry, Staging, checksum, write_whole

Storage = Literal["float32", "uint8"]
Progress = Callable[[str, int, int], None]
"""Called with what is being done ("reading", "writing"), how much of it is done, and of how much."""

GREATEST_SIZE = 8192


class Remark(NamedTuple):
    """Something said about a source file: its path below the images folder, and what."""

    file: str
    reason: str


@dataclass(frozen=True)
class Settings:
    """What to make of which sources.

    Attributes:
        images: Folder with DICOM files at any depth.
        annotations: The competition's annotation file.
        out: The HDF5 file to write.
        size: Height and width of the images written, in pixels.
        per_dataset: Images in each dataset but the last.
        storage: "float32", or "uint8" for a quarter of the bytes at 8 bits a pixel.
        workers: Processes; None takes all cores.
        overwrite: Whether an existing `out` may be replaced.
    """

    images: Path
    annotations: Path
    out: Path
    size: int = 384
    per_dataset: int = 512
    storage: Storage = "float32"
    workers: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Report:
    """What became of the sources.

    Attributes:
        out: The file written.
        found: DICOM files found.
        written: Images in the file.
        datasets: Datasets of images in the file.
        size_in_bytes: Of the file.
        resumed: Source files whose result an earlier, interrupted run had left.
        positives: Images written whose annotation is not empty.
        several: Images written with more than one annotation.
        vanished: Positive images whose mask is empty at the size written.
        contradictory: Images written with both -1 and an annotation (positive).
        without_annotation: Readable files without an annotation row, left out.
        bad_annotation: Files left out because a row is malformed or outside of the image.
        unreadable: Files that could not be read.
        duplicates: Files left out because their id had come before.
        without_image: Ids of annotations for which no file was found, sorted.
        blank_rows: Numbers of annotation rows without id or value.
        notes: Remarks on images written ("the first of 3 frames").
    """

    out: Path
    found: int
    written: int
    datasets: int
    size_in_bytes: int
    resumed: int
    positives: int
    several: int
    vanished: int
    contradictory: int
    without_annotation: tuple[Remark, ...]
    bad_annotation: tuple[Remark, ...]
    unreadable: tuple[Remark, ...]
    duplicates: tuple[Remark, ...]
    without_image: tuple[str, ...]
    blank_rows: tuple[int, ...]
    notes: tuple[Remark, ...]


def preprocess(settings: Settings, progress: Progress | None = None) -> Report:
    """Write the file.

    Args:
        settings: What to make of which sources.
        progress: Told about each file read and each block written.

    Raises:
        UserError: A bad setting, missing sources, an existing output, no image that can be used, or
            a refusal of the operating system. The output is then as it was before.
    """
    progress = progress or _silent
    _check(settings)
    annotations = read_annotations(settings.annotations)
    files = dicom.find(settings.images)
    if not files:
        raise UserError(f"no DICOM file (.dcm) below {settings.images}.", _hint(settings))
    fingerprint = _fingerprint(settings, annotations, files)
    size = (settings.size, settings.size)
    with explained(settings.out, "write"):
        settings.out.parent.mkdir(parents=True, exist_ok=True)
    folder = settings.out.with_name(f"{settings.out.name}.staging")
    staging = Staging.open(folder, fingerprint, settings.storage, size)
    try:
        resumed = len(staging.entries)
        _read_all(settings, annotations.rows_of, files, staging, progress)
        _check_any(settings, staging)
        datasets = _assemble(settings, annotations, staging, progress)
    except UserError as error:
        if not folder.exists():
            raise
        hint = f"Finished work is kept in {folder}: the same command goes on from there."
        raise UserError(error.message, f"{error.hint}\n{hint}" if error.hint else hint) from error
    finally:
        staging.close()
    staging.discard()
    return _report(settings, annotations, staging.entries, datasets, resumed)


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def _check(settings: Settings) -> None:
    """Refuse bad settings before any work."""
    for name, value, greatest in (
        ("--size", settings.size, GREATEST_SIZE),
        ("--per-dataset", settings.per_dataset, None),
        ("--workers", 1 if settings.workers is None else settings.workers, None),
    ):
        if value < 1 or (greatest is not None and value > greatest):
            limits = "at least 1" if greatest is None else f"from 1 to {greatest}"
            raise UserError(f"{name} must be {limits}. Received: {value}")
    if settings.storage not in ("float32", "uint8"):
        raise UserError(f"--storage must be float32 or uint8. Received: {settings.storage}")
    if settings.out.is_dir():
        raise UserError(f"{settings.out} is a folder; --out names the file to write.")
    if settings.out.exists() and not settings.overwrite:
        raise UserError(
            f"{settings.out} exists already.", "Add --overwrite to replace it, or choose another --out."
        )
    if not settings.images.is_dir():
        what = "is not a folder" if settings.images.exists() else "does not exist"
        raise UserError(f"the images folder {settings.images} {what}.", _hint(settings))
    if not settings.annotations.is_file():
        raise UserError(f"the annotation file {settings.annotations} does not exist.", _hint(settings))


def _hint(settings: Settings) -> str:
    return (
        "Expected the competition's layout: a folder of DICOM files at any depth (--images) and "
        "train-rle.csv (--annotations).\n"
        "Download both from Kaggle (SIIM-ACR Pneumothorax Segmentation), or make a synthetic set "
        "with: python preprocess.py phantoms\n"
        f"Looked for {settings.images.absolute()} and {settings.annotations.absolute()}."
    )


def _fingerprint(settings: Settings, annotations: Annotations, files: Sequence[Path]) -> str:
    """What the rows depend on. Neither the workers nor how the file is divided are among it."""
    digest = hashlib.sha256()
    versions = (np.__version__, cv2.__version__, *frames.versions())
    facts = (store.FORMAT_VERSION, settings.size, settings.storage, annotations.sha256, *versions)
    digest.update(repr(facts).encode())
    for file in files:
        status = _status(file)
        digest.update(f"{_name(settings, file)}\0{status}\n".encode())
    return digest.hexdigest()


def _status(file: Path) -> tuple[int, int]:
    """Size and time of change, which tell that a file is still the one that was read."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1  # reading it will report why
    return status.st_size, status.st_mtime_ns


def _name(settings: Settings, file: Path) -> str:
    """A file's path below the images folder, in characters that can be printed and stored."""
    return _printable(file.relative_to(settings.images).as_posix())


def _printable(text: str) -> str:
    """Bytes of a name that are no UTF-8 become escapes, written with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Outcome(NamedTuple):
    """A worker's result for one file."""

    entry: Entry
    image: NDArray[Any] | None = None
    mask: NDArray[np.uint8] | None = None


class _Slots:
    """A file through which the workers hand over their rows.

    A pipe takes as long for a row as the decoder does. A slot is free again once the results of as
    many items have come; what is in the file means nothing to a later run.
    """

    def __init__(self, path: Path, settings: Settings, mode: str) -> None:
        self._path = path
        with explained(path, "write"):
            self._file = io.FileIO(path, mode)
        shape = (settings.size, settings.size)
        self._image, self._mask = np.empty(shape, settings.storage), np.empty(shape, np.uint8)
        self._length = self._image.nbytes + self._mask.nbytes

    def put(self, slot: int, image: NDArray[Any], mask: NDArray[np.uint8]) -> None:
        """Fill a slot, in a worker."""
        with explained(self._path, "write"):
            self._file.seek(slot * self._length)
            for values in (image, mask):
                write_whole(self._file, values.data)

    def get(self, slot: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """The content of a slot; valid until the next call."""
        with explained(self._path, "read"):
            self._file.seek(slot * self._length)
            for values in (self._image, self._mask):
                if self._file.readinto(values.data.cast("B")) != values.nbytes:
                    raise OSError("a row is missing")
        return self._image, self._mask

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Job(NamedTuple):
    """What a worker needs to know besides the file; sent once to each."""

    settings: Settings
    rows_of: Mapping[str, tuple[Row, ...]]
    slots: Path


class _Task(NamedTuple):
    """One file, and the slot for its row."""

    file: Path
    slot: int


_job: _Job | None = None  # set in the workers only, before their first file
_slots: _Slots | None = None


def _prepare(job: _Job) -> None:
    global _job
    _job = job


def _worker_slots(job: _Job) -> _Slots:
    """This worker's view of the slots; opened late, because a failure here is then the caller's."""
    global _slots
    if _slots is None:
        _slots = _Slots(job.slots, job.settings, "r+")
    return _slots


def _process(task: _Task) -> Entry:
    """Read and convert one file, in a worker."""
    assert _job is not None
    entry, image, mask = convert(task.file, _job.settings, _job.rows_of)
    if image is not None and mask is not None:
        _worker_slots(_job).put(task.slot, image, mask)
    return entry


def convert(file: Path, settings: Settings, rows_of: Mapping[str, tuple[Row, ...]]) -> _Outcome:
    """Read one file, join it with its annotations and shrink both.

    Returns:
        The entry for the journal; with status "kept" also the image (size, size) in the storage's
        type and the mask (size, size) uint8. Other statuses: "unreadable", "without annotation",
        "bad annotation".
    """
    name, stem = _name(settings, file), _printable(file.stem)
    try:
        dataset = dicom.read_dataset(file)
        uid = dicom.sop_instance_uid(dataset)
        image_id = stem if stem in rows_of or uid not in rows_of else uid
        if image_id not in rows_of:
            dicom.check(file, dataset)
            return _Outcome(Entry(name, "without annotation", image_id=image_id))
        radiograph = dicom.radiograph(file, dataset)
    except dicom.UnreadableImage as error:
        return _Outcome(Entry(name, "unreadable", _printable(error.reason), stem))
    height, width = radiograph.pixels.shape
    entry = functools.partial(Entry, name, image_id=image_id, height=height, width=width)
    try:
        full = combined_mask(rows_of[image_id], height, width)
    except AnnotationError as error:
        return _Outcome(entry("bad annotation", str(error)))
    image = _stored(resize_image(radiograph.pixels, settings.size, settings.size), settings.storage)
    positive = bool(full.any())
    if positive:
        mask = resize_mask(full, settings.size, settings.size)
    else:  # four in five: spare the work
        mask = np.zeros((settings.size, settings.size), dtype=np.uint8)
    vanished = positive and not mask.any()
    row = entry("kept", radiograph.note, positive=positive, vanished=vanished, checksum=checksum(image, mask))
    return _Outcome(row, image, mask)


def _stored(image: NDArray[np.float32], storage: Storage) -> NDArray[Any]:
    if storage == "float32":
        return image
    rounded: NDArray[np.uint8] = np.rint(image * np.float32(store.SCALE)).astype(np.uint8)
    return rounded


def _crashed(task: _Task, settings: Settings) -> Entry:
    reason = "reading it killed the process (a decoder's defect, or out of memory)"
    return Entry(_name(settings, task.file), "unreadable", reason, _printable(task.file.stem))


def _read_all(
    settings: Settings,
    rows_of: Mapping[str, tuple[Row, ...]],
    files: Sequence[Path],
    staging: Staging,
    progress: Progress,
) -> None:
    """Stage what is not staged yet."""
    seen = {entry.image_id for entry in staging.entries if entry.kept}
    progress("reading", len(staging.entries), len(files))
    workers = settings.workers or available_cores()
    path, count = staging.folder / "slots.raw", workers * UNDER_WAY + 1
    tasks = [_Task(file, n % count) for n, file in enumerate(files[len(staging.entries) :])]
    slots = _Slots(path, settings, "w+")
    entries = ordered(
        _process,
        tasks,
        workers=workers,
        crashed=functools.partial(_crashed, settings=settings),
        prepare=_prepare,
        arguments=(_Job(settings, rows_of, path),),
    )
    try:
        for task, entry in zip(tasks, entries, strict=True):
            if entry.kept and entry.image_id in seen:
                reason = f"another file with the id {entry.image_id} came before"
                staging.append(Entry(entry.file, "duplicate", reason, entry.image_id))
            elif entry.kept:
                staging.append(entry, *slots.get(task.slot))
                seen.add(entry.image_id)
            else:
                staging.append(entry)
            progress("reading", len(staging.entries), len(files))
    finally:
        slots.close()


def _check_any(settings: Settings, staging: Staging) -> None:
    """Refuse to write a file without images (nothing is worth keeping then)."""
    if any(entry.kept for entry in staging.entries):
        return
    first = staging.entries[0]
    reason = first.reason or f"no annotation row for {first.image_id}"
    staging.discard()
    raise UserError(
        f"none of the {len(staging.entries)} DICOM files below {settings.images} can be used. "
        f"The first, {first.file}: {first.status} ({reason}).",
        _hint(settings),
    )


def _assemble(settings: Settings, annotations: Annotations, staging: Staging, progress: Progress) -> int:
    """Write the staged rows into the final file; return its number of datasets."""
    kept = [entry for entry in staging.entries if entry.kept]
    rows = store.Rows(
        ids=[entry.image_id for entry in kept],
        sizes=np.array([(entry.height, entry.width) for entry in kept], dtype=np.int32),
        positive=np.array([entry.positive for entry in kept], dtype=bool),
    )

    def blocks() -> Any:
        done = 0
        progress("writing", done, len(kept))
        for images, masks in staging.blocks():
            yield images, masks
            done += len(images)
            progress("writing", done, len(kept))

    with replacing(settings.out) as partial:
        return store.write(
            partial,
            rows,
            (settings.size, settings.size),
            blocks(),
            per_dataset=settings.per_dataset,
            storage=settings.storage,
            attributes={
                "source_files": len(staging.entries),
                "positives": int(rows.positive.sum()),
                "annotation_rows": annotations.rows,
                "annotation_images": annotations.images,
                "annotations_sha256": annotations.sha256,
            },
        )


def _report(
    settings: Settings,
    annotations: Annotations,
    entries: Sequence[Entry],
    datasets: int,
    resumed: int,
) -> Report:
    def remarks(status: str) -> tuple[Remark, ...]:
        return tuple(Remark(entry.file, entry.reason) for entry in entries if entry.status == status)

    kept = [entry for entry in entries if entry.kept]
    annotated = [[row for row in annotations.rows_of[entry.image_id] if not row.empty] for entry in kept]
    all_rows = [annotations.rows_of[entry.image_id] for entry in kept]
    present = {entry.image_id for entry in entries}
    return Report(
        out=settings.out,
        found=len(entries),
        written=len(kept),
        datasets=datasets,
        size_in_bytes=settings.out.stat().st_size,
        resumed=resumed,
        positives=sum(entry.positive for entry in kept),
        several=sum(len(rows) > 1 for rows in annotated),
        vanished=sum(entry.vanished for entry in kept),
        contradictory=sum(0 < len(some) < len(rows) for some, rows in zip(annotated, all_rows, strict=True)),
        without_annotation=remarks("without annotation"),
        bad_annotation=remarks("bad annotation"),
        unreadable=remarks("unreadable"),
        duplicates=remarks("duplicate"),
        without_image=tuple(sorted(set(annotations.rows_of) - present)),
        blank_rows=annotations.blank_rows,
        notes=tuple(Remark(entry.file, entry.reason) for entry in kept if entry.reason),
    )
