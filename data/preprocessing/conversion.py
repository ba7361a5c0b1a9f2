"""From a folder of radiographs and an annotation file to one HDF5 file.

Promises: the output appears under its name only when it is whole; an existing one is never replaced
unasked. The same sources and settings give the same arrays whatever the number of workers, and
whether or not the work was interrupted: started again, it goes on where it was. Every file and every
annotated image is accounted for in the `Report`; `Settings.report` has it written after the output, or
instead of it where the sources are refused. Nothing is labelled wrongly to save an image:

    no annotation row             left out of the file       `without_annotation`
    annotation malformed or       left out                   `bad_annotation`, with the row's number
    outside of the image
    file unreadable               left out                   `unreadable`, with the reason
    id seen before                the first file is kept     `duplicates`
    annotation without a file     nothing to do              `without_image`

`Settings.strict` makes any of these an error, and the output is not written.

An image belongs to the annotations of its file's name without `.dcm` (in the competition that is the SOP
Instance UID), or else of its SOP Instance UID. Without an annotation file (to predict on a test folder)
nothing is left out for want of a row, the output has no masks, and an image's id is its file's name without
`.dcm`, or its SOP Instance UID where several files have that name: see `data.annotations.image_ids`.

Patients are told apart by a keyed hash of their identifier; no identifier is ever written, the staging
folder included. The output has numbers in its place, or the hash if the user gave a key: see
`data.hdf5.store`.

This module prints nothing: progress goes to a callback.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.programs import command_line
from core.base.system import available_cores
from core.files.atomic import put_in_place, replacing, reserved
from core.files.checks import Input, check_free, check_inputs_stay
from core.files.system_errors import explain_os_errors
from core.processes.pool import map_in_order
from data.annotations.annotation_file import AnnotationError, Annotations, combined_mask, read_annotations
from data.annotations.image_ids import Identities, image_id, name_below, printable
from data.hdf5 import store
from data.hdf5.row_layout import Layout, RowFile
from data.pixel_data import decoders
from data.preprocessing.report import Report, summarise, write_report
from data.preprocessing.staging import FORMAT_VERSION, ROWS, Entry, Staging, checksum
from data.radiographs import dicom, headers
from data.radiographs.resize import resize_image, resize_mask

Storage = Literal["float32", "uint8"]
Progress = Callable[[str, int, int], None]
"""Called with what is being done ("reading", "writing"), how much of it is done, and of how much."""

LEAST_KEY_BYTES = 16
"""Of the key of the patients' hashes."""

_NO_RUNS = np.empty((0, 2), dtype=np.int64)
_MOST_NAMED = 5  # of what --strict objects to; the report has all


@dataclass(frozen=True)
class Settings:
    """What to make of which sources.

    Attributes:
        images: Folder with DICOM files at any depth.
        annotations: The competition's annotation file; None for images without annotations.
        out: The HDF5 file to write.
        size: Height and width of the images written, in pixels.
        per_dataset: Images in each dataset but the last.
        storage: "float32", or "uint8" for a quarter of the bytes at 8 bits a pixel.
        workers: Processes; None takes all cores.
        overwrite: Whether an existing `out` or `report` may be replaced.
        strict: Whether a file left out, or an annotation without a file, is an error.
        report: Where to write the report as JSON; None writes none.
        patient_key_file: A file whose bytes are the key of the patients' hashes; None numbers patients.
        ignore_patients: Take no notice of patients: for files that all bear the same identifier.
    """

    images: Path
    annotations: Path | None
    out: Path
    size: int = 384
    per_dataset: int = 512
    storage: Storage = "float32"
    workers: int | None = None
    overwrite: bool = False
    strict: bool = False
    report: Path | None = None
    patient_key_file: Path | None = None
    ignore_patients: bool = False


def preprocess(settings: Settings, progress: Progress | None = None) -> Report:
    """Write the file.

    Args:
        settings: What to make of which sources.
        progress: Told about each file read and each block written.

    Raises:
        UserError: A bad setting, missing sources, an existing output, another process that writes it, no
            image that can be used, one left out where that is forbidden, or a refusal of the operating
            system. The output is then as it was before.
    """
    _check(settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(reserved(settings.out))
        if settings.report is not None:
            stack.enter_context(reserved(settings.report, or_stream=True))
        _check_absent(settings)  # another process may just have ended
        return _preprocess(settings, progress or _silent)


def staging_folder(out: Path) -> Path:
    """Where finished work for an output lies: beside it, or beside the file that it is a link to."""
    place = Path(os.path.realpath(out)) if out.is_symlink() else out
    return place.with_name(f"{place.name}.staging")


def _preprocess(settings: Settings, progress: Progress) -> Report:
    files = dicom.find(settings.images)
    if not files:
        raise UserError(f"no DICOM file (.dcm) below {settings.images}.", _hint(settings))
    annotations = None
    if settings.annotations is not None:
        annotations = read_annotations(settings.annotations, set(map(image_id, files)))
    key = _patient_key(settings)
    names = [name_below(settings.images, file) for file in files]
    fingerprint = _fingerprint(settings, annotations, files, names, key)
    size = (settings.size, settings.size)
    folder = staging_folder(settings.out)
    identities = Identities.of(annotations, files)
    places, expected = identities.places(files)
    lay_out = functools.partial(
        store.lay_out, count=expected, size=size, kinds=_kinds(settings), per_dataset=settings.per_dataset
    )
    staging = Staging.open(folder, fingerprint, lay_out, places)
    try:
        resumed = len(staging.entries)
        with explain_os_errors(folder, "write"):
            store.check_room(folder / ROWS, staging.layout.end)
        job = _Job(settings, identities, key or staging.key, folder / ROWS, staging.layout)
        tasks = list(map(_Task, files, names, places))
        _read_all(job, tasks, staging, progress)
        report = summarise(settings.out, staging.entries, annotations, resumed)
        _check_outcome(settings, report, staging)
        datasets = _assemble(settings, annotations, staging, progress)
    except UserError as error:
        if not folder.exists():
            raise
        hint = f"Finished work is kept in {folder}: the same command goes on from there."
        raise UserError(error.message, f"{error.hint}\n{hint}" if error.hint else hint) from error
    finally:
        staging.close()
    staging.discard()
    written = settings.out.stat().st_size
    return _reported(settings, replace(report, datasets=datasets, size_in_bytes=written))


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def _check(settings: Settings) -> None:
    """Refuse bad settings before any work."""
    for name, value, greatest in (
        ("--size", settings.size, store.GREATEST_SIZE),
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
    if settings.report is not None and settings.report.is_dir():
        raise UserError(f"{settings.report} is a folder; --report names the file to write.")
    if settings.report is not None and os.path.realpath(settings.report) == os.path.realpath(settings.out):
        raise UserError(f"--report and --out both name {settings.out}.")
    _check_sources_stay(settings)
    _check_absent(settings)
    if not settings.images.is_dir():
        what = "is not a folder" if settings.images.exists() else "does not exist"
        raise UserError(f"the images folder {settings.images} {what}.", _hint(settings))
    if settings.annotations is not None and settings.annotations.is_dir():
        raise UserError(
            f"the annotation file {settings.annotations} is a folder.",
            "--annotations names the table, CSV, also as gzip or zip.",
        )
    if settings.annotations is not None and not settings.annotations.exists():
        raise UserError(
            f"the annotation file {settings.annotations} does not exist.",
            f"For images without annotations, to predict on, add --no-annotations.\n{_hint(settings)}",
        )


def _check_sources_stay(settings: Settings) -> None:
    """Refuse to write over what is read."""
    files = {"the annotations": settings.annotations, "the patients' key": settings.patient_key_file}
    inputs = [
        Input("the folder of the images", settings.images, dicom.looks_like_dicom),
        *(Input(name, path) for name, path in files.items() if path is not None),
    ]
    for option, path in (("--out", settings.out), ("--report", settings.report)):
        if path is not None:
            check_inputs_stay(option, path, inputs)


def _check_absent(settings: Settings) -> None:
    for option, path in (("--out", settings.out), ("--report", settings.report)):
        if path is not None:
            check_free(option, path, overwrite=settings.overwrite)


def _hint(settings: Settings) -> str:
    looked = [path.absolute() for path in (settings.images, settings.annotations) if path is not None]
    return (
        "Expected the competition's layout: a folder of DICOM files at any depth (--images) and "
        "train-rle.csv (--annotations).\n"
        "Download both from Kaggle (SIIM-ACR Pneumothorax Segmentation), or make a synthetic set "
        f"with: {command_line('phantoms')}\n"
        f"Looked for {' and '.join(map(str, looked))}."
    )


def _patient_key(settings: Settings) -> bytes:
    """The key that the user keeps, b"" without one."""
    path = settings.patient_key_file
    if path is None:
        return b""
    if settings.ignore_patients:
        raise UserError("--patient-key-file and --ignore-patients contradict each other.")
    with explain_os_errors(path, "read the patients' key"):
        key = path.read_bytes()
    if len(key) < LEAST_KEY_BYTES:
        raise UserError(
            f"--patient-key-file {path}: it has {len(key)} bytes; a key that cannot be guessed has at least "
            f"{LEAST_KEY_BYTES}.",
            f'Make one with: python -c "import secrets; print(secrets.token_hex(32))" > {path}',
        )
    return key


def _fingerprint(
    settings: Settings,
    annotations: Annotations | None,
    files: Sequence[Path],
    names: Sequence[str],
    key: bytes,
) -> str:
    """What the rows and their places depend on. The workers are not among it."""
    digest = hashlib.sha256()
    versions = (np.__version__, h5py.version.hdf5_version, *decoders.versions())
    formats = (store.FORMAT_VERSION, FORMAT_VERSION)
    labels = "" if annotations is None else annotations.sha256
    patients = settings.ignore_patients, hashlib.sha256(key).hexdigest()
    made = settings.size, settings.storage, settings.per_dataset
    facts = (*formats, *made, labels, *patients, *versions)
    digest.update(repr(facts).encode())
    for file, name in zip(files, names, strict=True):
        digest.update(f"{name}\0{_status(file)}\n".encode())
    return digest.hexdigest()


def _status(file: Path) -> tuple[int, int]:
    """Size and time of change, which tell that a file is still the one that was read."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1  # reading it will report why
    return status.st_size, status.st_mtime_ns


class _Outcome(NamedTuple):
    """A worker's result for one file: the row is the image and its mask, the image, or nothing."""

    entry: Entry
    row: tuple[NDArray[Any], ...] = ()


class _Job(NamedTuple):
    """What a worker needs to know besides the file; sent once to each."""

    settings: Settings
    identities: Identities
    patient_key: bytes
    rows: Path
    layout: Layout


class _Task(NamedTuple):
    """One file, its name, and the place of its row."""

    file: Path
    name: str
    place: int


_job: _Job | None = None  # set in the workers only, before their first file
_rows: RowFile | None = None


def _prepare(job: _Job) -> None:
    global _job
    _job = job


def _worker_rows(job: _Job) -> RowFile:
    """This worker's view of the rows; opened late, because a failure here is then the caller's."""
    global _rows
    if _rows is None:
        _rows = RowFile(job.rows, job.layout)
    return _rows


def _kinds(settings: Settings) -> list[str]:
    """Of what a row has: the image, and its mask if anything is annotated."""
    return [settings.storage] if settings.annotations is None else [settings.storage, "uint8"]


def _process(task: _Task) -> Entry:
    """Read and convert one file, in a worker."""
    assert _job is not None
    entry, row = convert(task.file, task.name, _job)
    if row:
        with explain_os_errors(_job.rows.parent, "write"):
            _worker_rows(_job).put(task.place, row)
    return entry


def convert(file: Path, name: str, job: _Job) -> _Outcome:
    """Read one file, join it with its annotations and shrink both.

    Returns:
        The entry for the journal; with status "kept" also the image (size, size) in the storage's
        type and, unless nothing is annotated, the mask (size, size) uint8. Other statuses:
        "unreadable", "without annotation", "bad annotation".
    """
    settings, rows_of = job.settings, job.identities.rows_of
    entry = Entry(name, "unreadable", image_id=image_id(file))
    try:
        dataset = dicom.read_dataset(file)
        chosen = job.identities.choose(file, dicom.sop_instance_uid(dataset))
        patient = "" if settings.ignore_patients else headers.patient_hash(dataset, job.patient_key)
        entry = replace(entry, image_id=chosen, patient=patient, **headers.coding(dataset)._asdict())
        if rows_of is not None and chosen not in rows_of:
            dicom.check(file, dataset)
            return _Outcome(replace(entry, status="without annotation"))
        radiograph = dicom.radiograph(file, dataset)
    except dicom.UnreadableImage as error:
        return _Outcome(replace(entry, reason=printable(error.reason)))
    height, width = radiograph.values.shape
    entry = replace(entry, height=height, width=width, reason=radiograph.note)
    image = resize_image(radiograph.values, settings.size, settings.size, radiograph.full)
    row = [_stored(image, settings.storage)]
    if rows_of is not None:
        row.append(np.zeros_like(image, np.uint8))
        if any(not one.empty for one in rows_of[chosen]):  # one in five
            try:
                full = combined_mask(rows_of[chosen], height, width)
            except AnnotationError as error:
                return _Outcome(replace(entry, status="bad annotation", reason=str(error)))
            row[1] = resize_mask(full, settings.size, settings.size)
            left = bool(row[1].any())
            positive = left or bool(full.any())
            entry = replace(entry, positive=positive, vanished=positive and not left)
    return _Outcome(replace(entry, status="kept", checksum=checksum(*row)), tuple(row))


def _stored(image: NDArray[np.float32], storage: Storage) -> NDArray[Any]:
    if storage == "float32":
        return image
    rounded: NDArray[np.uint8] = np.rint(image * np.float32(store.SCALE)).astype(np.uint8)
    return rounded


def _crashed(task: _Task) -> Entry:
    return Entry(task.name, "unreadable", dicom.KILLED, image_id(task.file))


def _read_all(
    job: _Job,
    tasks: Sequence[_Task],
    staging: Staging,
    progress: Progress,
) -> None:
    """Stage what is not staged yet."""
    seen = {entry.image_id for entry in staging.entries if entry.kept}
    progress("reading", len(staging.entries), len(tasks))
    entries = map_in_order(
        _process,
        tasks[len(staging.entries) :],
        workers=job.settings.workers or available_cores(),
        on_crash=_crashed,
        prepare=_prepare,
        arguments=(job,),
    )
    for entry in entries:
        if entry.kept and entry.image_id in seen:
            reason = f"another file with the id {entry.image_id} came before"
            staging.append(replace(entry, status="duplicate", reason=reason, checksum=0))
        else:
            staging.append(entry)
        if entry.kept:
            seen.add(entry.image_id)
        progress("reading", len(staging.entries), len(tasks))


def _reported(settings: Settings, report: Report) -> Report:
    """The same report, written where the settings want it."""
    if settings.report is not None:
        write_report(settings.report, report)
    return report


def _check_outcome(settings: Settings, report: Report, staging: Staging) -> None:
    """Refuse to write a file without images, or with too few if any is too few; the report is written."""
    error = _no_image(settings, report, staging.entries) or _too_strict(settings, report, staging.entries)
    if error is None:
        return
    _reported(settings, replace(report, error=error.message, written=0))
    if not any(entry.kept for entry in staging.entries):
        staging.discard()  # nothing of it is worth keeping
    raise error


def _no_image(settings: Settings, report: Report, entries: Sequence[Entry]) -> UserError | None:
    if any(entry.kept for entry in entries):
        return None
    ids = [entry.image_id for entry in entries if entry.image_id]
    hint = _hint(settings)
    if report.annotations is not None and report.without_annotation:
        known = report.annotations.rows_of
        if known.keys().isdisjoint(ids):  # both sources are there: they need no other copy
            hint = report.annotations.nearest(ids) or (
                f"{settings.annotations} has no id of an image. It has {next(iter(known))}, for example; the "
                f"first image is {ids[0]}. Do they belong together?"
            )
    return UserError(
        f"none of the {len(entries)} DICOM files below {settings.images} can be used. "
        f"The first, {_left_out(entries[0])}.",
        hint,
    )


def _too_strict(settings: Settings, report: Report, entries: Sequence[Entry]) -> UserError | None:
    """What `--strict` objects to: how much, and the first of it."""
    missing = [f"{name}: annotated, but there is no such image" for name in report.without_image]
    found = [*(_left_out(entry) for entry in entries if not entry.kept), *missing]
    if not settings.strict or not found:
        return None
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return UserError(
        f"{report.skipped} of {report.found} DICOM files cannot be used, and {len(missing)} annotated "
        f"images are missing; --strict forbids both. {'; '.join(found[:_MOST_NAMED])}{more}.",
        "Mend or remove these, or leave out --strict to have the others written."
        + (f" All of them are in {settings.report}." if settings.report else " --report names all of them."),
    )


def _left_out(entry: Entry) -> str:
    """A file without a row, and why."""
    return f"{entry.file}: {entry.status} ({entry.reason or f'no annotation row for {entry.image_id}'})"


def _patients(settings: Settings, kept: Sequence[Entry]) -> list[str]:
    """What the patients are called in the output; nothing if none is known."""
    hashes = [entry.patient for entry in kept]
    if settings.patient_key_file is None:
        known = dict.fromkeys(filter(None, hashes))
        numbers = {digest: str(number) for number, digest in enumerate(known)}
        hashes = [numbers.get(digest, "") for digest in hashes]
    return hashes if any(hashes) else []


def _assemble(
    settings: Settings, annotations: Annotations | None, staging: Staging, progress: Progress
) -> int:
    """Write the staged rows into the final file; return its number of datasets."""
    kept = [entry for entry in staging.entries if entry.kept]
    attributes: dict[str, str | int | float] = {"source_files": len(staging.entries)}
    positive, runs = None, list[NDArray[np.int64]]()
    if annotations is not None:
        runs = [annotations.runs_of.get(entry.image_id, _NO_RUNS) for entry in kept]
        positive = np.array([entry.positive for entry in kept], dtype=bool)
        attributes |= {
            "positives": int(positive.sum()),
            "annotation_rows": annotations.rows,
            "annotation_images": annotations.images,
            "annotations_sha256": annotations.sha256,
        }
    patients = _patients(settings, kept)
    if patients:
        attributes["patients"] = "numbered" if settings.patient_key_file is None else "hashed"
    rows = store.ImageMetadata(
        ids=[entry.image_id for entry in kept],
        sizes=np.array([(entry.height, entry.width) for entry in kept], dtype=np.int32),
        positive=positive,
        patients=patients,
        runs=runs,
    )

    progress("writing", 0, len(kept))
    if staging.in_order:
        rows_file = staging.finished_rows()
        with explain_os_errors(settings.out, "write"):
            datasets = store.finish(rows_file, rows, staging.layout, attributes)
        put_in_place(rows_file, settings.out)
        progress("writing", len(kept), len(kept))
        return datasets

    def blocks() -> Iterator[tuple[NDArray[Any], ...]]:
        for done, block in enumerate(staging.blocks(), 1):
            yield block
            progress("writing", done, len(kept))

    with replacing(settings.out) as partial:
        return store.write(
            partial,
            rows,
            (settings.size, settings.size),
            blocks(),
            per_dataset=settings.per_dataset,
            storage=settings.storage,
            attributes=attributes,
        )
