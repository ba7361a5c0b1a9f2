"""The only import of matplotlib, without its messages on standard error.

If the home folder cannot be written, matplotlib warns that it creates a temporary folder for its font cache.
When it fills the cache, it says that this takes a moment. Users need to do nothing about either.
"""

from __future__ import annotations

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

__all__ = ["Axes", "Figure", "FuncFormatter", "MaxNLocator", "NullLocator", "mpl"]
