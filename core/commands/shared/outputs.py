"""Checks of output paths: the policy for outputs that exist, which all commands share.

- An output that exists is an error, before any work, unless `--overwrite` is given. An empty file or folder
  counts as not there.
- With `--overwrite` a file is replaced, whatever it holds. A folder is replaced as a whole, but only if it
  holds nothing except files of the expected suffix.
- With or without `--overwrite`, no output may be or contain an input, or be, contain or lie in another
  output. Only a device (`/dev/null`) may be several outputs.
- A destination that is no file (a device, a pipe) is neither read nor replaced (`core.files.destinations`).
- Outputs that are `claimed` before the work are not written by another process until the block ends.

Two commands change their input instead: `train` keeps an earlier run under another name or resumes it
(`core.tasks.training_runs`), and `tune` replaces the thresholds of its model. `phantoms` replaces its images
and annotations in a folder and leaves the other files there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.base.errors import UserError
from core.files.atomic import reserved
from core.files.checks import Input as Input
from core.files.checks import check_apart, check_free, check_inputs_stay, check_place, entries, place_of
from core.files.destinations import OutputStream, destination
from core.files.lock_files import is_fixed
from core.files.system_errors import explain_os_errors


@dataclass(frozen=True)
class OutputFile:
    """A file to write.

    Args:
        option: The option that names it.
        path: The file.
        or_stream: Whether it may be a device or a pipe instead of a file.
    """

    option: str
    path: Path
    or_stream: bool = True


@dataclass(frozen=True)
class OutputFolder:
    """A folder to fill with files of one suffix.

    Args:
        option: The option that names it.
        path: The folder.
        suffix: The suffix of its files.
    """

    option: str
    path: Path
    suffix: str


Output = OutputFile | OutputFolder


def images(folder: Path) -> Input:
    """Return the input that is a folder of radiographs."""
    from data.radiographs.dicom import looks_like_dicom

    return Input("the folder of the images", folder, looks_like_dicom)


def model(folder: Path) -> Input:
    """Return the input that is the folder of a trained model."""
    from core.prediction.trained_models import belongs_to_model

    def holds(file: Path) -> bool:
        return belongs_to_model(file.relative_to(place_of(folder) or folder))

    return Input("the folder of a model", folder, holds)


@contextlib.contextmanager
def claimed(outputs: Sequence[Output], inputs: Sequence[Input], *, overwrite: bool) -> Iterator[None]:
    """Check the outputs with `check_outputs`, and keep other processes from writing them in the block.

    Raises:
        UserError: An output is in the way, or another process writes there; the message has the option.
    """
    check_outputs(outputs, inputs, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        for output in outputs:
            or_stream = isinstance(output, OutputFile) and output.or_stream
            stack.enter_context(reserved(output.path, or_stream=or_stream))
        check_outputs(outputs, inputs, overwrite=overwrite)  # another process may have written them meanwhile
        yield


@contextlib.contextmanager
def claimed_reports(
    reports: Mapping[str, Path | None], inputs: Sequence[Input], *, overwrite: bool
) -> Iterator[None]:
    """Claim report files as `claimed` does, and check that their folders are writable.

    A command writes such files at its end.

    Args:
        reports: The files by option; None for one that is not wanted.
        inputs: The inputs, which must not be replaced.
        overwrite: Whether existing files may be replaced.

    Raises:
        UserError: As in `claimed`, or a place is not writable.
    """
    outputs = [OutputFile(option, path) for option, path in reports.items() if path is not None]
    for output in outputs:
        check_place(output.path)
    with claimed(outputs, inputs, overwrite=overwrite):
        yield


def check_outputs(outputs: Sequence[Output], inputs: Sequence[Input], *, overwrite: bool) -> None:
    """Raise, before any work, if an output would destroy something.

    Raises:
        UserError: The message has the option and the file in the way.
    """
    for index, output in enumerate(outputs):
        check_inputs_stay(output.option, output.path, inputs)
        for other in outputs[:index]:
            check_apart(output.option, output.path, f"the place of {other.option}", other.path)
        if isinstance(output, OutputFile):
            _check_file(output, overwrite)
        else:
            _check_folder(output, overwrite)


def _check_file(output: OutputFile, overwrite: bool) -> None:
    path = output.path
    if isinstance(destination(path), OutputStream):
        return  # it is not replaced, and must not be opened for reading
    if path.is_dir():
        raise UserError(f"{output.option} {path} is a folder; it names the file to write.")
    check_free(output.option, path, overwrite=overwrite)


def _check_folder(output: OutputFolder, overwrite: bool) -> None:
    path = output.path
    if isinstance(destination(path), OutputStream) or not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{output.option} {path} is not a folder; it names the folder to write to.")
    if is_fixed(Path(os.path.realpath(path))):
        raise UserError(
            f"{output.option} {path} cannot be replaced as a whole: it is a disk of its own, or lies in a "
            "folder that must not be written.",
            f"Name a folder in it: {path / 'new'}",
        )
    with explain_os_errors(path, "list"):
        found = entries(path)
    foreign = next(_foreign(found, output.suffix), None)
    if foreign is not None:
        raise UserError(
            f"{output.option} {path} holds other things than {output.suffix} files: {foreign.name}.",
            "Choose another folder; this one is never replaced.",
        )
    check_free(output.option, path, overwrite=overwrite)


def _foreign(paths: Sequence[Path], suffix: str) -> Iterator[Path]:
    return (path for path in paths if path.suffix.lower() != suffix or path.is_dir())
