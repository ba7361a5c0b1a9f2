"""The only import of matplotlib, without its messages on standard error.

If the home folder cannot be written, matplotlib warns that it creates a temporary folder for its font cache.
When it fills the cache, it says that this takes a moment. Users need to do nothing about either.
"""

from __future__ import annotations

import io
import logging

_log = logging.getLogger("matplotlib")
_level = _log.level
_log.setLevel(logging.ERROR)

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
finally:
    _log.setLevel(_level)

__all__ = ["Axes", "Figure", "FuncFormatter", "MaxNLocator", "NullLocator", "as_file", "mpl"]


def as_file(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file of the format with this suffix: ".png", ".svg" or ".pdf"."""
    image = io.BytesIO()
    figure.savefig(image, format=suffix.lstrip("."), dpi=100)
    return image.getvalue()
