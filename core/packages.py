"""Which package brings which module that is not ours, and the line that installs one that is missing.

Promises: what runs out of such a module ends with one message that names the package and the `pip` line, for
all packages of the same use that are missing, so that it has to be run once. A module of our own that is
missing is a defect and stays one. Nothing is imported to find out what is there.

Training, `tune`, `evaluate`, `conformance` and `parity` need a framework and the packages of `LIGHT`, which
are those of requirements-light.txt; nothing else is imported on their way.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from core.errors import UserError

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
"""Module to package, of all that every command but those below needs."""

DICOM = {
    "highdicom": "highdicom",
    "imagecodecs": "imagecodecs",
    "jpeg_ls": "pyjpegls",
    "openjpeg": "pylibjpeg-openjpeg",
    "pydicom": "pydicom",
    "simplejpeg": "simplejpeg",
}
"""Of what reads and writes DICOM: `preprocess`, `predict`, `check` and `score` with images, `phantoms`."""

PHANTOMS = {"cv2": "opencv-python-headless"}
"""Of what draws phantoms."""

REPORT = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}
"""Of `evaluate --report` and `parity --plot`."""

USES = LIGHT, DICOM, PHANTOMS, REPORT

_BROUGHT_BY_THOSE = {  # each by itself: pip brings them unless it is told not to
    "annotated_types": "annotated-types",
    "contourpy": "contourpy",
    "cycler": "cycler",
    "dateutil": "python-dateutil",
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
    """Refuse work that will need some modules, before it is begun.

    Args:
        modules: Names in the tables above.
        what: What needs them: "--report".

    Raises:
        UserError: One cannot be found; with the line that installs what is missing.
    """
    if missing := [module for module in modules if not _is_there(module)]:
        raise _told(missing[0], what)


def explain_missing(error: ModuleNotFoundError) -> UserError | None:
    """What a failed import means to a user; None where it is no package of these, so a defect of ours."""
    name = error.name or ""
    module = name.partition(".")[0]
    if module not in _packages() or (name != module and _is_there(module)):
        return None
    return _told(module, "this command")


def _told(module: str, what: str) -> UserError:
    uses = [use for use in USES if module in use] or [{module: _BROUGHT_BY_THOSE.get(module, module)}]
    # What could not be imported is missing, whatever else is said of it.
    missing = [package for other, package in uses[0].items() if other == module or not _is_there(other)]
    package = _packages()[module]
    named = package if package == module else f"{package} (module {module})"
    return UserError(f"{what} needs {named}, which is not installed", f"Run: pip install {' '.join(missing)}")


def _packages() -> dict[str, str]:
    return {module: package for use in (*USES, _BROUGHT_BY_THOSE) for module, package in use.items()}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # hidden, or half imported
        return False
