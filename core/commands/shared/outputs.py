"""Where commands write, and what they must not write over.

Provides the one policy for outputs that are there already: every command refuses them, before any work,
unless `--overwrite` is given. An empty file or folder is in nobody's way. With `--overwrite` a file is
replaced whatever it is, and a folder as a whole, unless it holds anything else than files of the kind that
it is to hold. No output may be or contain an input, nor be, contain or lie in another output, `--overwrite`
or not; a device (`/dev/null`) alone may be several. What is no file is neither looked into nor replaced
(`core.files.destinations`). What is `claimed` before work begins is written by no other process until it
ends.

Two commands change what they are given instead of writing an output: `train` keeps an earlier run under
another name or resumes it (`core.tasks.training_runs`), and `tune` renews the thresholds of the model that it
is given. `phantoms` replaces its images and annotations in a folder and leaves the rest of it.
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
        option: How it was named on the command line.
        path: Where it is to be.
        or_stream: Whether it may be something else than a file.
    """

    option: str
    path: Path
    or_stream: bool = True


@dataclass(frozen=True)
class OutputFolder:
    """A folder to fill with files of one suffix.

    Args:
        option: How it was named on the command line.
        path: Where it is to be.
        suffix: Of its files.
    """

    option: str
    path: Path
    suffix: str


Output = OutputFile | OutputFolder


def images(folder: Path) -> Input:
    """A folder of radiographs."""
    from data.radiographs.dicom import looks_like_dicom

    return Input("the folder of the images", folder, looks_like_dicom)


def model(folder: Path) -> Input:
    """A folder with a trained model."""
    from core.prediction.trained_models import belongs_to_model

    def holds(file: Path) -> bool:
        return belongs_to_model(file.relative_to(place_of(folder) or folder))

    return Input("the folder of a model", folder, holds)


@contextlib.contextmanager
def claimed(outputs: Sequence[Output], inputs: Sequence[Input], *, overwrite: bool) -> Iterator[None]:
    """Check the outputs as `check_outputs` does, and keep other processes from writing them in the block.

    Raises:
        UserError: With the option, and what stands in its way; or with who writes there.
    """
    check_outputs(outputs, inputs, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        for output in outputs:
            or_stream = isinstance(output, OutputFile) and output.or_stream
            stack.enter_context(reserved(output.path, or_stream=or_stream))
        check_outputs(outputs, inputs, overwrite=overwrite)  # another process may just have ended
        yield


@contextlib.contextmanager
def claimed_reports(
    reports: Mapping[str, Path | None], inputs: Sequence[Input], *, overwrite: bool
) -> Iterator[None]:
    """Likewise, of files that are written at the end, in places that must be writable now.

    Args:
        reports: By option; None is not wanted.
        inputs: What they must not replace.
        overwrite: Whether they may replace other files.

    Raises:
        UserError: With the option, and what stands in its way; or with who writes there.
    """
    outputs = [OutputFile(option, path) for option, path in reports.items() if path is not None]
    for output in outputs:
        check_place(output.path)
    with claimed(outputs, inputs, overwrite=overwrite):
        yield


def check_outputs(outputs: Sequence[Output], inputs: Sequence[Input], *, overwrite: bool) -> None:
    """Refuse, before any work, outputs that would destroy something.

    Raises:
        UserError: With the option, and what stands in its way.
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
        return  # nothing of it is replaced, and it must not be opened for reading
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
