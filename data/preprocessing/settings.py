"""Settings of preprocessing, and their checks before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.base.errors import UserError
from core.base.programs import command_line
from core.files.checks import Input, check_free, check_inputs_stay
from core.files.system_errors import explain_os_errors
from data.hdf5 import file_format
from data.radiographs import dicom
from data.radiographs.clahe import DEFAULT_TILES, LIMITS, MOST_TILES, Clahe, check_tiles

Storage = Literal["float32", "uint8"]
"""Type of the stored images."""

LEAST_KEY_BYTES = 16
"""The least length of the key of the patients' hashes."""


@dataclass(frozen=True)
class PreprocessingSettings:
    """The sources, the output and the options of preprocessing.

    Attributes:
        images: Folder with DICOM files at any depth.
        annotations: The competition's annotation file; None for images without annotations.
        out: The HDF5 file to write.
        size: Height and width of the images written, in pixels.
        per_dataset: Images in each dataset but the last.
        storage: "float32", or "uint8" for a quarter of the size with 8 bits per pixel.
        clahe: The limit of the equalisation (`data.radiographs.clahe`); None leaves the contrast as it is.
        clahe_tiles: Its number of tiles along each side.
        workers: Number of worker processes; None uses all cores.
        overwrite: Whether an existing `out` or `report` may be replaced.
        strict: Whether a file left out, or an annotation without a file, is an error.
        report: The file for the report as JSON; None writes no report.
        patient_key_file: A file whose bytes are the key of the patients' hashes; None numbers the patients.
        ignore_patients: Treat every patient as unknown: for files that all have the same identifier.
    """

    images: Path
    annotations: Path | None
    out: Path
    size: int = 384
    per_dataset: int = 512
    storage: Storage = "float32"
    clahe: float | None = None
    clahe_tiles: int = DEFAULT_TILES
    workers: int | None = None
    overwrite: bool = False
    strict: bool = False
    report: Path | None = None
    patient_key_file: Path | None = None
    ignore_patients: bool = False

    @property
    def equalization(self) -> Clahe | None:
        """How the images are equalised; None if they are not."""
        return None if self.clahe is None else Clahe(float(self.clahe), self.clahe_tiles)


def row_types(settings: PreprocessingSettings) -> list[str]:
    """Return the types of a row's arrays: the image, and the mask if there are annotations."""
    return [settings.storage] if settings.annotations is None else [settings.storage, "uint8"]


def check_settings(settings: PreprocessingSettings) -> None:
    """Check the settings and that the sources exist.

    Raises:
        UserError: A bad setting, missing sources, or an existing output that may not be replaced.
    """
    for name, value, greatest in (
        ("--size", settings.size, file_format.GREATEST_SIZE),
        ("--per-dataset", settings.per_dataset, None),
        ("--clahe-tiles", settings.clahe_tiles, MOST_TILES),
        ("--workers", 1 if settings.workers is None else settings.workers, None),
    ):
        if value < 1 or (greatest is not None and value > greatest):
            limits = "at least 1" if greatest is None else f"from 1 to {greatest}"
            raise UserError(f"{name} must be {limits}. Received: {value}")
    least, most = LIMITS
    if settings.clahe is not None and not least <= settings.clahe <= most:
        raise UserError(f"--clahe must be from {least:g} to {most:g}. Received: {settings.clahe:g}")
    if settings.clahe is not None:
        check_tiles(settings.clahe_tiles, settings.size, settings.size, "--clahe-tiles")
    if settings.storage not in ("float32", "uint8"):
        raise UserError(f"--storage must be float32 or uint8. Received: {settings.storage}")
    if settings.out.is_dir():
        raise UserError(f"{settings.out} is a folder; --out names the file to write.")
    if settings.report is not None and settings.report.is_dir():
        raise UserError(f"{settings.report} is a folder; --report names the file to write.")
    if settings.report is not None and os.path.realpath(settings.report) == os.path.realpath(settings.out):
        raise UserError(f"--report and --out both name {settings.out}.")
    _check_sources_stay(settings)
    check_outputs_absent(settings)
    if not settings.images.is_dir():
        what = "is not a folder" if settings.images.exists() else "does not exist"
        raise UserError(f"the images folder {settings.images} {what}.", sources_hint(settings))
    if settings.annotations is not None and settings.annotations.is_dir():
        raise UserError(
            f"the annotation file {settings.annotations} is a folder.",
            "--annotations names the table, CSV, also as gzip or zip.",
        )
    if settings.annotations is not None and not settings.annotations.exists():
        raise UserError(
            f"the annotation file {settings.annotations} does not exist.",
            f"For images without annotations, to predict on, add --no-annotations.\n{sources_hint(settings)}",
        )


def _check_sources_stay(settings: PreprocessingSettings) -> None:
    """Raise if an output would overwrite a source."""
    files = {"the annotations": settings.annotations, "the patients' key": settings.patient_key_file}
    inputs = [
        Input("the folder of the images", settings.images, dicom.looks_like_dicom),
        *(Input(name, path) for name, path in files.items() if path is not None),
    ]
    for option, path in (("--out", settings.out), ("--report", settings.report)):
        if path is not None:
            check_inputs_stay(option, path, inputs)


def check_outputs_absent(settings: PreprocessingSettings) -> None:
    """Raise a `UserError` if an output exists and may not be replaced."""
    for option, path in (("--out", settings.out), ("--report", settings.report)):
        if path is not None:
            check_free(option, path, overwrite=settings.overwrite)


def sources_hint(settings: PreprocessingSettings) -> str:
    """Return the hint of errors about missing sources: the expected layout, and where to get it."""
    looked = [path.absolute() for path in (settings.images, settings.annotations) if path is not None]
    return (
        "Expected the competition's layout: a folder of DICOM files at any depth (--images) and "
        "train-rle.csv (--annotations).\n"
        "Download both from Kaggle (SIIM-ACR Pneumothorax Segmentation), or make a synthetic set "
        f"with: {command_line('phantoms')}\n"
        f"Looked for {' and '.join(map(str, looked))}."
    )


def read_patient_key(settings: PreprocessingSettings) -> bytes:
    """Read the user's key of the patients' hashes; b"" without a key file.

    Raises:
        UserError: The file cannot be read, the key is too short, or patients are to be ignored.
    """
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
