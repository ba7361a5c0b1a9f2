"""The one place that imports MXNet, set up for the rules of `core`."""

from __future__ import annotations

import importlib.util
import os
import warnings
from decimal import Decimal

import numpy as np

from backends.mxnet.old_numpy import give_old_names
from core.base.errors import UserError
from core.base.system import available_cores

# MXNet assumes hyper-threads and takes half of the cores it sees: 9 instead of 15 images/s on two cores.
os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
# Workspaces of operations that might run at a time, each as large as the largest one wants; by itself MXNet
# makes four, but runs one operation after the other on a CPU.
os.environ.setdefault("MXNET_CPU_TEMP_COPY", "1")
# No fusing of operations in an executor, which takes any graph that wants no gradient for one that predicts.
os.environ["MXNET_SUBGRAPH_BACKEND"] = "NONE"

give_old_names("mxnet")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about distutils
    if importlib.util.find_spec("distutils") is None:  # not in Python since 3.12: setuptools brings it
        import setuptools  # noqa: F401
    import mxnet as mx
    from mxnet._ctypes.symbol import _symbol_creator as make_symbol

__all__ = ["attribute", "make_symbol", "mx"]


def attribute(number: float) -> str:
    """A float32 number as the attribute of an operator, spelled so that MXNet reads that very number.

    Its parser misreads one in twenty written with an exponent, as Python writes small ones, by a unit in
    the last place; positional ones with at most 19 decimals it reads right.

    Raises:
        UserError: The number is too small to be told in 19 decimals.
    """
    text = format(Decimal(number), ".19f")
    if float(np.float32(text)) != number:
        raise UserError(f"MXNet reads numbers to 19 decimals and so cannot take {number!r} exactly")
    return text
