"""Which backend a command uses: the one that -f names, or one of those that are installed.

Provides `settle`, which turns what the user typed into backends' names, and the choices where -f is left out.
Where the toolkit chooses, `remark` says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError

if TYPE_CHECKING:
    from core.contract import Backend
    from core.inference import Member


def settle(arguments: argparse.Namespace) -> None:
    """Replace what -f was given by the name of the backend that it means: "tensorflow" by "tf".

    Raises:
        UserError: It means none.
    """
    given = getattr(arguments, "framework", None)
    if given is None:
        return
    from core.registry import backend_name

    arguments.framework = backend_name(given) if isinstance(given, str) else [*map(backend_name, given)]


def model_of(framework: str | None) -> Path:
    """The folder of the model where --model is left out.

    That is NAME_model of the backend. Where no backend is named, or one that does not train, it is the only
    such folder in the working directory.

    Raises:
        UserError: There are several, or there is none.
    """
    from core.inference import model_folder
    from core.registry import backend_names, find_backend

    if framework is not None and (model_folder(framework).exists() or find_backend(framework).trains):
        return model_folder(framework)
    found = [folder for name in backend_names() if (folder := model_folder(name)).is_dir()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            "no folder of a model (NAME_model) is in the working directory.", "Name one with --model."
        )
    raise UserError(
        f"the working directory holds several models: {', '.join(map(str, found))}.",
        "Name one with --model, or the backend that trained it with -f.",
    )


def choose_predictor(members: Sequence[Member], device: str) -> Backend:
    """The first installed backend that can predict with models, on the device that is asked for.

    Raises:
        UserError: None can; the text lists the backends, and why not.
    """
    from core.registry import predictors

    precisions = {member.checkpoint.configuration.training.precision for member in members}
    (first, *others) = sorted(precisions)
    candidates = [
        backend
        for backend in predictors(first)
        if all(precision in backend.precisions for precision in others)
    ]
    refusals = []
    for backend in candidates:
        if (refusal := _refusal(backend, device)) is None:
            return backend
        refusals.append(f"{backend.name}: {refusal}")
    reasons = "\n  ".join(refusals) or f"none predicts in {', '.join(sorted(precisions))}"
    raise UserError(f"no installed backend can predict with this model on {device!r}:\n  {reasons}")


def _refusal(backend: Backend, device: str) -> str | None:
    """Why a backend cannot compute on a device; None where it can. Asks the framework only about GPUs."""
    if device in ("auto", "cpu"):
        return None
    from core.devices import choose_device
    from core.probing import probe

    found = probe(backend.name)
    if found.error is not None:
        return found.error
    try:
        choose_device(device, found.devices, backend.title)
    except UserError as error:
        return error.message
    return None


def remark(backend: Backend) -> str:
    """The line that tells which backend was taken."""
    return f"backend: {backend.name} ({backend.title} {backend.version()}), as -f names none"
