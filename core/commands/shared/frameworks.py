"""Which backend a command uses: the one that -f names, or one of those that are installed.

Provides `settle`, which turns what the user typed into backends' names, and the folder of a model where -f is
left out. Where the toolkit chooses (`core.tasks.backend_choice`), `remark` says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.base.errors import UserError

if TYPE_CHECKING:
    from core.backend.contract import Backend


def settle(arguments: argparse.Namespace) -> None:
    """Replace what -f was given by the name of the backend that it means: "tensorflow" by "tf".

    Raises:
        UserError: It means none.
    """
    given = getattr(arguments, "framework", None)
    if given is None:
        return
    from core.backend.registry import backend_name

    arguments.framework = backend_name(given) if isinstance(given, str) else [*map(backend_name, given)]


def model_of(framework: str | None) -> Path:
    """The folder of the model where --model is left out.

    That is NAME_model of the backend. Where no backend is named, or one that does not train, it is the only
    such folder in the working directory.

    Raises:
        UserError: There are several, or there is none.
    """
    from core.backend.registry import backend_names, find_backend
    from core.prediction.trained_models import model_folder

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


def remark(backend: Backend) -> str:
    """The line that tells which backend was taken."""
    return f"backend: {backend.name} ({backend.title} {backend.version()}), as -f names none"
