"""The one place that imports MXNet, set up for the rules of `core`."""

from __future__ import annotations

import os
import warnings

import numpy as np

# MXNet assumes hyper-threads and takes half of the cores it sees: 9 instead of 15 images/s on two cores.
if hasattr(os, "sched_getaffinity"):
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NumPy's about the name below, MXNet's about distutils
    if not hasattr(np, "bool"):
        # MXNet 1.9.1 reads `numpy.bool`, gone since NumPy 1.24: AttributeError at import.
        np.bool = bool  # type: ignore[attr-defined]
    import mxnet as mx

__all__ = ["mx"]
