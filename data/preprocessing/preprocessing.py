"""From a folder of radiographs and an annotation file to one HDF5 file.

The output appears under its name only when it is whole; an existing file is replaced only if the settings
allow it. The same sources and settings give the same arrays, whatever the number of workers and whether or
not the work was interrupted: started again, it continues. Every file and every annotated image is listed in
the `PreprocessingReport`. If `PreprocessingSettings.report` is set, the report is written after the output,
and also if the sources are refused. No image is kept with a label that may be wrong:

    no annotation row             left out of the file       `without_annotation`
    annotation malformed or       left out                   `bad_annotation`, with the row's number
    outside of the image
    file unreadable               left out                   `unreadable`, with the reason
    id seen before                the first file is kept     `duplicates`
    annotation without a file     nothing to do              `without_image`

With `PreprocessingSettings.strict` each of these is an error, and the output is not written.

An image belongs to the annotations of its file's name without `.dcm` (in the competition that is the SOP
Instance UID), or else to those of its SOP Instance UID. Without an annotation file (to predict on a test
folder) no image is left out for lack of a row and the output has no masks. An image's id is then its file's
name without `.dcm`, or its SOP Instance UID if several files have that name (`data.annotations.image_ids`).

Patients are distinguished by a keyed hash of their identifier. No identifier is ever written, not even to the
staging folder. The output has numbers instead, or the hashes if the user gave a key: see
`data.hdf5.file_format`.

This module prints nothing; progress goes to a callback.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.system import available_cores
from core.files.atomic import put_in_place, replacing, reserved
from core.files.system_errors import explain_os_errors
from core.processes.pool import MapInOrder, map_in_order
from data.annotations.annotation_file import Annotations, read_annotations
from data.annotations.image_ids import Identities, image_id, name_below
from data.hdf5 import file_format, file_writing
from data.pixel_data import decoders
from data.preprocessing.conversion import (
    SourceFile,
    WorkerContext,
    convert_and_store,
    killed_worker_entry,
    set_worker_context,
)
from data.preprocessing.report import PreprocessingReport, summarise, write_report
from data.preprocessing.settings import (
    PreprocessingSettings,
    check_outputs_absent,
    check_settings,
    read_patient_key,
    row_types,
    sources_hint,
)
from data.preprocessing.staging import FORMAT_VERSION, ROWS, JournalEntry, Staging
from data.radiographs import dicom

Progress = Callable[[str, int, int], None]
"""Called with the kind of work ("reading", "writing"), the amount done, and the total amount."""

_NO_RUNS = np.empty((0, 2), dtype=np.int64)
_MOST_NAMED = 5  # faults that the error of --strict names; the report has all


def preprocess(
    settings: PreprocessingSettings, progress: Progress | None = None, mapping: MapInOrder = map_in_order
) -> PreprocessingReport:
    """Write the data file.

    Args:
        settings: The sources, the output and the options.
        progress: Called for each file read and each block written.
        mapping: Does what `map_in_order` does.

    Raises:
        UserError: A bad setting, missing sources, an existing output, another process that writes it, no
            usable image, an image left out although that is forbidden, or a refusal of the operating
            system. The output is then as it was before.
    """
    check_settings(settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(reserved(settings.out))
        if settings.report is not None:
            stack.enter_context(reserved(settings.report, or_stream=True))
        check_outputs_absent(settings)  # another process may just have ended
        return _preprocess(settings, progress or _silent, mapping)


def staging_folder(out: Path) -> Path:
    """Return the folder of finished work: next to the output, or next to the target if that is a link."""
    place = Path(os.path.realpath(out)) if out.is_symlink() else out
    return place.with_name(f"{place.name}.staging")


def _preprocess(
    settings: PreprocessingSettings, progress: Progress, mapping: MapInOrder
) -> PreprocessingReport:
    files = dicom.find(settings.images)
    if not files:
        raise UserError(f"no DICOM file (.dcm) below {settings.images}.", sources_hint(settings))
    annotations = None
    if settings.annotations is not None:
        annotations = read_annotations(settings.annotations, set(map(image_id, files)))
    key = read_patient_key(settings)
    names = [name_below(settings.images, file) for file in files]
    fingerprint = _fingerprint(settings, annotations, files, names, key)
    size = (settings.size, settings.size)
    folder = staging_folder(settings.out)
    identities = Identities.of(annotations, files)
    places, expected = identities.assign_rows(files)
    compute_layout = functools.partial(
        file_writing.compute_layout,
        count=expected,
        size=size,
        kinds=row_types(settings),
        per_dataset=settings.per_dataset,
    )
    staging = Staging.open(folder, fingerprint, compute_layout, places)
    try:
        resumed = len(staging.entries)
        with explain_os_errors(folder, "write"):
            file_writing.reserve_space(folder / ROWS, staging.layout.end)
        context = WorkerContext(settings, identities, key or staging.key, folder / ROWS, staging.layout)
        sources = list(map(SourceFile, files, names, places))
        _read_all(context, sources, staging, progress, mapping)
        report = summarise(settings.out, staging.entries, annotations, resumed)
        _check_result(settings, report, staging)
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
    return _with_written_report(settings, replace(report, datasets=datasets, size_in_bytes=written))


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


def _fingerprint(
    settings: PreprocessingSettings,
    annotations: Annotations | None,
    files: Sequence[Path],
    names: Sequence[str],
    key: bytes,
) -> str:
    """Return a hash of everything that the rows and their places depend on (not the number of workers)."""
    digest = hashlib.sha256()
    versions = (np.__version__, h5py.version.hdf5_version, *decoders.versions())
    formats = (file_format.FORMAT_VERSION, FORMAT_VERSION)
    labels = "" if annotations is None else annotations.sha256
    patients = settings.ignore_patients, hashlib.sha256(key).hexdigest()
    made = settings.size, settings.storage, settings.per_dataset, *(settings.equalization or ())
    facts = (*formats, *made, labels, *patients, *versions)
    digest.update(repr(facts).encode())
    for file, name in zip(files, names, strict=True):
        digest.update(f"{name}\0{_size_and_time(file)}\n".encode())
    return digest.hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    """Return size and modification time: if both are equal, the file is taken as unchanged."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1  # reading it will report why
    return status.st_size, status.st_mtime_ns


def _read_all(
    context: WorkerContext,
    sources: Sequence[SourceFile],
    staging: Staging,
    progress: Progress,
    mapping: MapInOrder,
) -> None:
    """Convert and stage the files that are not staged yet."""
    seen = {entry.image_id for entry in staging.entries if entry.kept}
    progress("reading", len(staging.entries), len(sources))
    entries = mapping(
        convert_and_store,
        sources[len(staging.entries) :],
        workers=context.settings.workers or available_cores(),
        on_crash=killed_worker_entry,
        prepare=set_worker_context,
        arguments=(context,),
    )
    with contextlib.closing(entries):
        for entry in entries:
            if entry.kept and entry.image_id in seen:
                reason = f"another file with the id {entry.image_id} came before"
                staging.append(replace(entry, status="duplicate", reason=reason, checksum=0))
            else:
                staging.append(entry)
            if entry.kept:
                seen.add(entry.image_id)
            progress("reading", len(staging.entries), len(sources))


def _with_written_report(settings: PreprocessingSettings, report: PreprocessingReport) -> PreprocessingReport:
    """Write the report if the settings ask for it; return it."""
    if settings.report is not None:
        write_report(settings.report, report)
    return report


def _check_result(settings: PreprocessingSettings, report: PreprocessingReport, staging: Staging) -> None:
    """Raise if no image can be used, or any is left out under `--strict`; the report is written first."""
    error = _no_image_error(settings, report, staging.entries) or _strict_error(
        settings, report, staging.entries
    )
    if error is None:
        return
    _with_written_report(settings, replace(report, error=error.message, written=0))
    if not any(entry.kept for entry in staging.entries):
        staging.discard()  # it has no rows to continue from
    raise error


def _no_image_error(
    settings: PreprocessingSettings, report: PreprocessingReport, entries: Sequence[JournalEntry]
) -> UserError | None:
    if any(entry.kept for entry in entries):
        return None
    ids = [entry.image_id for entry in entries if entry.image_id]
    hint = sources_hint(settings)
    if report.annotations is not None and report.without_annotation:
        known = report.annotations.rows_of
        if known.keys().isdisjoint(ids):  # both sources exist: a hint to download them would not help
            hint = report.annotations.explain_near_miss(ids) or (
                f"{settings.annotations} has no id of an image. It has {next(iter(known))}, for example; the "
                f"first image is {ids[0]}. Do they belong together?"
            )
    return UserError(
        f"none of the {len(entries)} DICOM files below {settings.images} can be used. "
        f"The first, {_why_left_out(entries[0])}.",
        hint,
    )


def _strict_error(
    settings: PreprocessingSettings, report: PreprocessingReport, entries: Sequence[JournalEntry]
) -> UserError | None:
    """Return the error that `--strict` demands, with the first files and ids concerned."""
    missing = [f"{name}: annotated, but there is no such image" for name in report.without_image]
    found = [*(_why_left_out(entry) for entry in entries if not entry.kept), *missing]
    if not settings.strict or not found:
        return None
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return UserError(
        f"{report.skipped} of {report.found} DICOM files cannot be used, and {len(missing)} annotated "
        f"images are missing; --strict forbids both. {'; '.join(found[:_MOST_NAMED])}{more}.",
        "Mend or remove these, or leave out --strict to have the others written."
        + (f" All of them are in {settings.report}." if settings.report else " --report names all of them."),
    )


def _why_left_out(entry: JournalEntry) -> str:
    """Return a file's name and the reason why it has no row."""
    return f"{entry.file}: {entry.status} ({entry.reason or f'no annotation row for {entry.image_id}'})"


def _patient_names(settings: PreprocessingSettings, kept: Sequence[JournalEntry]) -> list[str]:
    """Return the patients' names in the output; empty if no patient is known."""
    hashes = [entry.patient for entry in kept]
    if settings.patient_key_file is None:
        known = dict.fromkeys(filter(None, hashes))
        numbers = {digest: str(number) for number, digest in enumerate(known)}
        hashes = [numbers.get(digest, "") for digest in hashes]
    return hashes if any(hashes) else []


def _assemble(
    settings: PreprocessingSettings, annotations: Annotations | None, staging: Staging, progress: Progress
) -> int:
    """Write the staged rows into the final file; return its number of datasets."""
    kept = [entry for entry in staging.entries if entry.kept]
    attributes: dict[str, str | int | float] = {"source_files": len(staging.entries)}
    if (clahe := settings.equalization) is not None:
        attributes |= dict(zip(file_format.CLAHE, clahe, strict=True))
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
    patients = _patient_names(settings, kept)
    if patients:
        attributes["patients"] = "numbered" if settings.patient_key_file is None else "hashed"
    rows = file_writing.ImageMetadata(
        ids=[entry.image_id for entry in kept],
        sizes=np.array([(entry.height, entry.width) for entry in kept], dtype=np.int32),
        positive=positive,
        patients=patients,
        runs=runs,
        views=[entry.view for entry in kept],
        sexes=[entry.sex for entry in kept],
        ages=np.array([entry.age for entry in kept], dtype=np.int16),
    )

    progress("writing", 0, len(kept))
    if staging.in_order:
        rows_file = staging.finished_rows()
        with explain_os_errors(settings.out, "write"):
            datasets = file_writing.complete_file(rows_file, rows, staging.layout, attributes)
        put_in_place(rows_file, settings.out)
        progress("writing", len(kept), len(kept))
        return datasets

    def blocks() -> Iterator[tuple[NDArray[Any], ...]]:
        for done, block in enumerate(staging.blocks(), 1):
            yield block
            progress("writing", done, len(kept))

    with replacing(settings.out) as partial:
        return file_writing.write(
            partial,
            rows,
            (settings.size, settings.size),
            blocks(),
            per_dataset=settings.per_dataset,
            storage=settings.storage,
            attributes=attributes,
        )
