"""The backend of a command: the value of -f, or an installed backend that the toolkit chooses.

`settle` replaces aliases of backends by their names. `model_of` returns the default folder of the model.
`remark` is the line that names a backend which the toolkit chose (`core.tasks.backend_choice`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.base.errors import UserError

if TYPE_CHECKING:
    from core.backend.contract import Backend


def settle(arguments: argparse.Namespace) -> None:
    """Replace the value of -f by the backend's name: "tensorflow" by "tf".

    Raises:
        UserError: No backend has that name or alias.
    """
    given = getattr(arguments, "framework", None)
    if given is None:
        return
    from core.backend.registry import backend_name

    if isinstance(given, str):
        arguments.framework = backend_name(given)
    else:  # of `parity`, where "tf+torch" names the backends of several workers
        arguments.framework = ["+".join(map(backend_name, name.split("+"))) for name in given]


def model_of(framework: str | None) -> Path:
    """Return the folder of the model where --model is left out.

    This is NAME_model of the backend. If no backend is named, or one that does not train, it is the only such
    folder in the working directory.

    Raises:
        UserError: There are several such folders, or none.
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
    """Return the line that says which backend was chosen."""
    return f"backend: {backend.name} ({backend.title} {backend.version()}), since -f was not given"
