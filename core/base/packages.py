"""Which package brings which module that is not ours, and the line that installs one that is missing.

Promises: what runs out of such a module ends with one message that names the package and the `pip` line, for
all packages of the same use that are missing, so that it has to be run once. A module of our own that is
missing is a defect and stays one. Nothing is imported to find out what is there.

Training, `tune`, `evaluate`, `conformance` and `parity` need a framework and the packages of `LIGHT`, which
are those of requirements-light.txt; nothing else is imported on their way.
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
"""Module to package, of all that every command but those below needs."""

DICOM = {
    "imagecodecs": "imagecodecs",
    "jpeg_ls": "pyjpegls",
    "openjpeg": "pylibjpeg-openjpeg",
    "pydicom": "pydicom",
    "simplejpeg": "simplejpeg",
}
"""Of what reads DICOM: `preprocess`, `predict`, `check --images`."""

SEGMENTATIONS = {"highdicom": "highdicom"}
"""Of `predict --dicom-seg`, beside those."""

PHANTOMS = {"cv2": "opencv-python-headless"}
"""Of `phantoms`, beside pydicom."""

REPORT = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}
"""Of `evaluate --report` and `parity --plot`."""

USES = LIGHT, DICOM, SEGMENTATIONS, PHANTOMS, REPORT

_BROUGHT_BY_THOSE = {  # each by itself: pip brings them unless it is told not to
    "annotated_types": "annotated-types",
    "contourpy": "contourpy",
    "cycler": "cycler",
    "dateutil": "python-dateutil",
    "flatbuffers": "flatbuffers",  # of JAX's export
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
        raise _told(missing, what)


def explain_missing(error: ModuleNotFoundError, what: str = "this command") -> UserError | None:
    """What a failed import means to a user; None where it is no package of these, so a defect of ours."""
    name = error.name or ""
    module = name.partition(".")[0]
    if module not in _packages() or (name != module and _is_there(module)):
        return None
    # What could not be imported is missing, whatever else is said of it.
    uses = [use for use in USES if module in use]
    others = [other for use in uses for other in use if other != module and not _is_there(other)]
    return _told([module, *others], what)


def _told(missing: Sequence[str], what: str) -> UserError:
    """Says that the first of some modules is missing, and how all of them are installed."""
    packages = [_packages()[module] for module in missing]
    named = packages[0] if packages[0] == missing[0] else f"{packages[0]} (module {missing[0]})"
    return UserError(
        f"{what} needs {named}, which is not installed", f"Run: pip install {' '.join(packages)}"
    )


def _packages() -> dict[str, str]:
    return {module: package for use in (*USES, _BROUGHT_BY_THOSE) for module, package in use.items()}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # hidden, or half imported
        return False
