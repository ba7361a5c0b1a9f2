"""Pneumothorax segmentation from Python, for notebooks and services. docs/python.md has examples.

    import pneumoseg

    model = pneumoseg.load_model("tf_model")
    found = model.predict("image.dcm")
    found.positive, found.existence, found.area_mm2, found.box

The results are those of the commands, since both call the same code. Importing this package imports only the
standard library; frameworks, OpenCV and other packages are imported when a function first needs them. Errors
raise `pneumoseg.Error`, whose text says what is wrong and what to do. Any other exception is a defect of the
toolkit or of the call (a `TypeError`).

For research; not for clinical use.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from core.base.errors import UserError as Error
    from core.experiment.checkpoint import EpochRecord
    from core.scoring.evaluation_record import Evaluation, Summary
    from core.scoring.thresholds import Thresholds
    from core.tasks.predictions import Box
    from pneumoseg.data_files import Batch, DataFile, open_data
    from pneumoseg.models import Model, Prediction, evaluate, load_model
    from pneumoseg.radiographs import Radiograph, UnreadableImage, find_radiographs, read_radiograph
    from pneumoseg.trainings import Trained, TrainedRun, train

__all__ = [
    "Batch",
    "Box",
    "DataFile",
    "EpochRecord",
    "Error",
    "Evaluation",
    "Model",
    "Prediction",
    "Radiograph",
    "Summary",
    "Thresholds",
    "Trained",
    "TrainedRun",
    "UnreadableImage",
    "__version__",
    "evaluate",
    "find_radiographs",
    "load_model",
    "open_data",
    "read_radiograph",
    "train",
]

_HOMES = {
    "core.experiment.checkpoint": ("EpochRecord",),
    "core.base.errors": ("UserError",),
    "core.scoring.evaluation_record": ("Evaluation", "Summary"),
    "core.tasks.predictions": ("Box",),
    "core.scoring.thresholds": ("Thresholds",),
    "pneumoseg.data_files": ("Batch", "DataFile", "open_data"),
    "pneumoseg.models": ("Model", "Prediction", "evaluate", "load_model"),
    "pneumoseg.radiographs": ("Radiograph", "UnreadableImage", "find_radiographs", "read_radiograph"),
    "pneumoseg.trainings": ("Trained", "TrainedRun", "train"),
}
_PACKAGES = ("core", "data", "backends")  # the toolkit's other packages, in the same folder as this one


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    wanted = "UserError" if name == "Error" else name
    home = next((module for module, names in _HOMES.items() if wanted in names), None)
    if home is None or name == "UserError":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_packages()
    try:
        found = getattr(importlib.import_module(home), wanted)
    except ModuleNotFoundError as error:
        from core.base.packages import explain_missing

        if (missing := explain_missing(error)) is None:
            raise
        raise missing from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__


def check_packages() -> None:
    """Raise if another package hides one of the toolkit's packages.

    Raises:
        ImportError: Another module called `core`, `data` or `backends` comes first on the search path, or the
            toolkit's is missing.
    """
    here = Path(__file__).resolve().parent.parent
    for name in _PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module without a spec was put into sys.modules
            spec = None
        origin = None if spec is None else spec.origin
        if origin is None or Path(origin).resolve() != here / name / "__init__.py":
            what = "is missing" if spec is None else f"is hidden by {origin or 'a folder of that name'}"
            raise ImportError(
                f"the package {name!r} of pneumoseg {what}; it belongs into {here}. "
                "Rename what hides it, or start Python in another folder."
            )
