"""The command `export`: write a model with its backend, read it back and compare it with the reference."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from pathlib import Path

import numpy as np

from core.backend.contract import Backend
from core.backend.process import BackendProcess
from core.backend.registry import find_exporter, load_backend, require_backend
from core.backend.training_rules import prediction_rules
from core.base.errors import UserError
from core.base.programs import command_line
from core.base.standard_streams import visible
from core.commands.shared import terminal
from core.commands.shared.frameworks import remark
from core.commands.shared.statuses import Status
from core.files.atomic import replacing, reserved
from core.files.checks import check_free, entries
from core.network.lowering import lower
from core.prediction.exports import (
    METADATA,
    ExportSource,
    export_metadata,
    largest_difference,
    predict_reference,
    probe_images,
    read_back,
    read_metadata,
    with_white_level,
    write_export,
    write_metadata,
)
from core.prediction.trained_models import Member, find_members
from core.scoring.thresholds import SavedThresholds, load_saved_thresholds
from core.scoring.views import PLAIN


def run(arguments: argparse.Namespace) -> Status:
    """Export as the command line says."""
    backend = require_backend(find_exporter(arguments.to, arguments.framework).name)
    _only_member(arguments.model)
    out: Path = arguments.out or arguments.model / f"export-{arguments.to}"
    _check_out(out, overwrite=arguments.overwrite)
    with contextlib.ExitStack() as stack:
        place, model = (Path(os.path.realpath(path)) for path in (out, arguments.model))
        if model in place.parents:  # a training that starts there would rename the folder
            stack.enter_context(reserved(arguments.model, shared=True))
        stack.enter_context(reserved(out))
        _check_out(out, overwrite=arguments.overwrite)  # another process may have written it meanwhile
        _export(arguments, backend, out)
    return Status.DONE


def _export(arguments: argparse.Namespace, backend: Backend, out: Path) -> None:
    """Write the model, read it back and show the result."""
    console = terminal.console(soft_wrap=True)
    if arguments.framework is None:
        console.print(remark(backend))
    member = _only_member(arguments.model)
    settings, data = member.checkpoint.configuration.training, member.checkpoint.data
    plan = lower(member.checkpoint.configuration.network, data.height, data.width)
    rules = prediction_rules(settings.rules())
    source = ExportSource(plan, rules, settings.precision, member.checkpoint.arrays)
    written = with_white_level(source, arguments.white)
    saved = load_saved_thresholds(member.folder)
    writer = f"{backend.title} {backend.version()}"
    metadata = export_metadata(member.checkpoint, member.path, saved, white=arguments.white, writer=writer)
    what = f"the {arguments.to} export"
    images, white = probe_images(data.height, data.width), np.float32(arguments.white)
    path = visible(str(member.path))
    console.print(f"{path} (epoch {metadata['epoch']}) as {arguments.to}, by {writer}")
    with BackendProcess(backend.name) as process, replacing(out) as partial:
        partial.mkdir()
        several = len(backend.exports) > 1
        process.call(write_export, written, partial, metadata, arguments.to if several else None)
        read = process.start(read_back, partial, images * white)
        expected = predict_reference(load_backend("reference")[1], source, images * white / white)
        received = process.wait(read)
        if received is not None:
            difference = largest_difference(received, expected, settings.precision, what)
        files = [path for path in partial.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        if _is_single(out, files):
            _replace_by_file(partial, files[0])
        elif out.is_file():
            raise UserError(f"--out {out} is a file, and {what} is a folder.", "Name a folder.")
        else:
            write_metadata(partial, metadata)
    searched = f"none were searched ({command_line('tune')})" if saved is None else str(saved.thresholds)
    console.print(
        f"images: (N, {data.height}, {data.width}, 1) float32, white is {arguments.white:g}; "
        f"thresholds: {searched}"
        f"{_for_views(saved)}"
    )
    if received is None:
        console.print(f"NOT checked: the backend {backend.name} cannot read {what} back")
    else:
        console.print(
            f"Checked: read back, its probabilities of {len(images)} images differ from the reference's by "
            f"{difference:.1e} at most"
        )
    details = "" if out.is_file() else f", and what it is in {METADATA}"
    console.print(f"Written: {visible(str(out))} ({size / 1e6:.1f} MB{details})")


def _for_views(saved: SavedThresholds | None) -> str:
    """Return the views that saved thresholds are for, if they are not for the image alone."""
    views = PLAIN if saved is None else saved.views or PLAIN
    if views == PLAIN:
        return ""
    return f", for the mean with the {'mirror image' if not views.scaled else views.extras}"


def _only_member(folder: Path) -> Member:
    """Return the model in a folder. An ensemble cannot become one file."""
    members = find_members([folder])
    if len(members) > 1:
        raise UserError(
            f"{folder} holds {len(members)} folds; an export holds one network.",
            f"Export each: --model {members[0].folder}, …; the ensemble is the mean of their probabilities.",
        )
    return members[0]


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Raise, before any work, if the destination holds something else than an export."""
    check_free("--out", out, overwrite=overwrite)
    if out.is_dir() and entries(out) and read_metadata(out) is None:
        raise UserError(
            f"--out {out} is a folder that holds other things than an export (it has no {METADATA} of one).",
            "Choose another folder; this one is never replaced.",
        )


def _is_single(out: Path, files: list[Path]) -> bool:
    """Return whether the export is one file and `--out` names a file with the same suffix."""
    return len(files) == 1 and out.suffix != "" and out.suffix.lower() == files[0].suffix.lower()


def _replace_by_file(folder: Path, file: Path) -> None:
    """Replace a folder by the one file that it holds."""
    aside = folder.with_name(f"{folder.name}.file")
    file.replace(aside)
    shutil.rmtree(folder)
    aside.replace(folder)
