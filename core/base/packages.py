"""Third-party modules, the packages that contain them, and messages about missing ones.

If a module is missing, the user gets one message with the package and a `pip` command. The command installs
all missing packages of the same use, so that it has to be run once. A missing module of our own is a defect,
and its exception is not changed. The checks import no module.

Training, `tune`, `evaluate`, `conformance` and `parity` need a framework and the packages in `LIGHT`, which
are those of requirements-light.txt. They import no others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence

from core.base.errors import UserError

LIGHT = {
    "PIL": "pillow",
    "h5py": "h5py",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "rich": "rich",
    "safetensors": "safetensors",
    "tensorboardX": "tensorboardX",
    "xxhash": "xxhash",
    "yaml": "PyYAML",
}
"""Module to package: what all commands need."""

DICOM = {
    "imagecodecs": "imagecodecs",
    "jpeg_ls": "pyjpegls",
    "openjpeg": "pylibjpeg-openjpeg",
    "pydicom": "pydicom",
    "simplejpeg": "simplejpeg",
}
"""Module to package: for DICOM files, in `preprocess`, `predict` and `check --images`."""

SEGMENTATIONS = {"highdicom": "highdicom"}
"""Module to package: for `predict --dicom-seg`, in addition to `DICOM`."""

PHANTOMS = {"cv2": "opencv-python-headless"}
"""Module to package: for `phantoms`, in addition to pydicom."""

REPORT = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}
"""Module to package: for `evaluate --report` and `parity --plot`."""

WORKERS = {"mpi4py": "mpi4py"}
"""Module to package: for several workers."""

USES = LIGHT, DICOM, SEGMENTATIONS, PHANTOMS, REPORT, WORKERS

_DEPENDENCIES = {  # of the packages above; pip installs them unless it is told not to
    "annotated_types": "annotated-types",
    "contourpy": "contourpy",
    "cycler": "cycler",
    "dateutil": "python-dateutil",
    "flatbuffers": "flatbuffers",  # for JAX's export
    "fontTools": "fonttools",
    "google": "protobuf",
    "kiwisolver": "kiwisolver",
    "markdown_it": "markdown-it-py",
    "markupsafe": "MarkupSafe",
    "mdurl": "mdurl",
    "packaging": "packaging",
    "pydantic_core": "pydantic-core",
    "pygments": "Pygments",
    "pylibjpeg": "pylibjpeg",
    "pyparsing": "pyparsing",
    "typing_extensions": "typing-extensions",
    "typing_inspection": "typing-inspection",
}


def require(modules: Iterable[str], what: str) -> None:
    """Check, before the work begins, that the modules it needs are installed.

    Args:
        modules: Names in the tables above.
        what: What needs them: "--report".

    Raises:
        UserError: One cannot be found. The text has the command that installs what is missing.
    """
    if missing := [module for module in modules if not _is_installed(module)]:
        raise _missing_error(missing, what)


def explain_missing(error: ModuleNotFoundError, what: str = "this command") -> UserError | None:
    """Return the message for a failed import; None if the module is in no table, so that it is a defect."""
    name = error.name or ""
    module = name.partition(".")[0]
    if module not in _packages() or (name != module and _is_installed(module)):
        return None
    # The module is missing, as it could not be imported, even if `_is_installed` finds it.
    uses = [use for use in USES if module in use]
    others = [other for use in uses for other in use if other != module and not _is_installed(other)]
    return _missing_error([module, *others], what)


def _missing_error(missing: Sequence[str], what: str) -> UserError:
    """Return the error that names the first of some missing modules, and how to install all of them."""
    packages = [_packages()[module] for module in missing]
    named = packages[0] if packages[0] == missing[0] else f"{packages[0]} (module {missing[0]})"
    return UserError(
        f"{what} needs {named}, which is not installed", f"Run: pip install {' '.join(packages)}"
    )


def _packages() -> dict[str, str]:
    return {module: package for use in (*USES, _DEPENDENCIES) for module, package in use.items()}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # hidden, or partly imported
        return False
