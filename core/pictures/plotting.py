"""The one place that imports matplotlib, without a word of its own on standard error.

Where the home folder cannot be written it warns that it makes a temporary one, for its cache of fonts, and
where it fills that cache that this takes a moment. Neither is anything to mend.
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
