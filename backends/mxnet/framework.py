"""The import of MXNet, with the settings that `core`'s rules need. Nothing else imports MXNet."""

from __future__ import annotations

import importlib.util
import os
import warnings
from decimal import Decimal

import numpy as np

from backends.mxnet.numpy_compatibility import give_old_names
from core.base.errors import UserError
from core.base.system import available_cores

# By default MXNet assumes hyper-threads and uses half of the cores that it sees.
os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
# For how long a thread without work stays awake: some 20 microseconds. By default it is 2 if there are more
# threads than cores, as MXNet soon has, so that most operations begin by waking one; else it is milliseconds.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# One workspace for operations. The default is four, each as large as the largest operation needs, but on a
# CPU it runs one operation after the other.
os.environ.setdefault("MXNET_CPU_TEMP_COPY", "1")
# cuDNN would round the operands of float32 products to TF32 on cards that have it, and MXNet has no switch.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
# An executor must not fuse operations: it takes every graph without autograd for one that only predicts.
os.environ["MXNET_SUBGRAPH_BACKEND"] = "NONE"

give_old_names("mxnet")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of distutils
    if importlib.util.find_spec("distutils") is None:  # Python has none since 3.12, but setuptools does
        import setuptools  # noqa: F401
    import mxnet as mx
    from mxnet._ctypes.symbol import _symbol_creator as make_symbol

__all__ = ["attribute", "make_symbol", "mx"]


def attribute(number: float) -> str:
    """Return a float32 number as the text of an operator's attribute, from which MXNet reads that number.

    MXNet's parser misreads one in twenty numbers with an exponent, as Python writes small ones, by a unit in
    the last place. It reads numbers without an exponent and with at most 19 decimals exactly.

    Raises:
        UserError: The number is too small to be written with 19 decimals.
    """
    text = format(Decimal(number), ".19f")
    if float(np.float32(text)) != number:
        raise UserError(f"MXNet reads numbers to 19 decimals and so cannot use {number!r} exactly")
    return text
