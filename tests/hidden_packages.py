"""Hide packages from programs, as if they were not installed: their modules and their metadata."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_HIDE = """\
import importlib.metadata, re, sys

MODULES, PACKAGES = {modules!r}, {packages!r}
_find = importlib.metadata.MetadataPathFinder.find_distributions


class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


def distributions(context=importlib.metadata.DistributionFinder.Context()):
    wanted = re.sub("[-_.]+", "-", context.name or "").lower()
    return iter(()) if wanted in PACKAGES else _find(context)


sys.meta_path.insert(0, Hidden)
importlib.metadata.MetadataPathFinder.find_distributions = staticmethod(distributions)
"""


def hide(folder: Path, modules: Iterable[str], packages: Iterable[str] = ()) -> dict[str, str]:
    """Hide them from programs with these environment variables, and from all processes that they start.

    Args:
        folder: The folder for the file that hides them.
        modules: The names of top-level modules.
        packages: The names of distributions whose metadata are hidden.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {package.replace("_", "-").replace(".", "-").lower() for package in packages}
    text = _HIDE.format(modules=set(modules), packages=names)
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}
