"""MXNet's stand-in for NumPy: old names with their old meaning, and for MXNet alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from backends.mxnet.numpy_compatibility import old_names

NAMES = old_names()

A = np.array([[3.5, -1.0, 2.25], [0.5, 4.0, -2.0]])

WORKED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "product": ((A, 0), [1.75, -4.0, -4.5]),
    "cumproduct": ((A[0],), [3.5, -3.5, -7.875]),
    "alltrue": ((A > -1, 1), [False, False]),
    "sometrue": ((A > 3, 0), [True, True, False]),
    "in1d": ((A, [4.0, 3.5]), [True, False, False, False, True, False]),
    "row_stack": (([A[0], A[1]],), A),
    "trapz": ((A[0], [0.0, 1.0, 4.0]), 1.25 + 1.875),
    "msort": ((A,), [[0.5, -1.0, -2.0], [3.5, 4.0, 2.25]]),
    "round_": ((A[0], 0), [4.0, -1.0, 2.0]),
    "asfarray": (([1, 2],), [1.0, 2.0]),
}


@pytest.mark.parametrize("name", WORKED)
def test_old_functions_do_what_they_did(name: str) -> None:
    arguments, wanted = WORKED[name]
    found = np.asarray(NAMES[name](*arguments))
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == (bool if name in ("alltrue", "sometrue", "in1d") else float)


def test_a_cast_is_by_type() -> None:
    assert NAMES["cast"][np.int32](A).tolist() == [[3, -1, 2], [0, 4, -2]]


def test_floats_stay_of_their_type() -> None:
    assert NAMES["asfarray"]([1], np.float32).dtype == np.float32
    assert NAMES["asfarray"]([1], np.int8).dtype == np.float64


def test_old_constants_are_those_of_numpy_1() -> None:
    wanted = {"ERR_RAISE": 2, "FPE_INVALID": 8, "SHIFT_OVERFLOW": 3, "CLIP": 0, "RAISE": 2, "MAXDIMS": 32}
    assert {name: NAMES[name] for name in wanted} == wanted
    assert np.signbit(NAMES["NZERO"])
    assert not np.signbit(NAMES["PZERO"])
    assert (NAMES["NINF"], NAMES["PINF"]) == (-np.inf, np.inf)
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":  # which has them, and can say whether all are right
        for name, value in NAMES.items():
            if isinstance(value, int | float | str) and not isinstance(value, type):
                assert getattr(np, name) == value or value != value, name


def test_financial_functions_say_where_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"numpy\.npv has been in the package numpy_financial"):
        NAMES["npv"](0.1, [1, 2])


PROGRAM = """
import warnings; warnings.simplefilter("ignore")
import numpy
names = ["float_", "bool", "int", "PZERO", "alltrue", "trapz", "npv", "in1d"]
before = [(name, hasattr(numpy, name)) for name in names]
listed = dir(numpy)
from backends.mxnet.framework import mx
import mxnet.numpy.fallback, mxnet.numpy.utils
assert [(name, hasattr(numpy, name)) for name in names] == before
import sys, types
loaded = set(dir(numpy)) - set(listed)  # NumPy's own, such as numpy.testing
assert all(isinstance(getattr(numpy, name), types.ModuleType) for name in loaded), loaded
assert sys.modules["numpy"] is numpy and __import__("numpy") is numpy
import requests, graphviz  # imported by MXNet, of other packages
assert all(getattr(module, "np", numpy) is numpy for module in (requests, graphviz))
stand = mxnet.numpy.fallback.onp
assert stand is not numpy and stand.float32 is numpy.float32 and stand.linalg is numpy.linalg
assert {"PZERO", "float32"} <= set(dir(stand))
assert mxnet.numpy.utils.bool is bool and mxnet.numpy.fallback.alltrue([1, 2])
try:
    stand.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise SystemExit("a name that no NumPy has was found")
from mxnet import onnx  # imported later, likewise
import mxnet.test_utils
assert mxnet.test_utils.np is stand
"""


def test_nobody_else_sees_them() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=240)
