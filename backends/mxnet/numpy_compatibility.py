"""A stand-in for NumPy, for MXNet's modules alone, with the names that NumPy has removed.

After `give_old_names("mxnet")`, `import mxnet` works with NumPy 1.26 and 2.x, and `numpy` does not change for
any other module. MXNet 1.9.1, the last release, reads names that NumPy 1.24 (`bool`, `int`, ...) and 2.0
(`PZERO`, `alltrue`, ...) have removed. MXNet's modules get a stand-in for `numpy` that has these names and
passes every other name on. An `import` statement calls the `__import__` that it finds in its module's
`__builtins__`; MXNet's modules get `__builtins__` with an `__import__` that returns the stand-in.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np


def give_old_names(package: str) -> None:
    """Give the stand-in to the package's modules that are imported from now on."""
    if not any(isinstance(finder, _Finder) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(package, _Stand("numpy", np.__doc__)))


def old_names() -> dict[str, Any]:
    """Return the names that NumPy 2 lacks and earlier versions had, each with its former value.

    The financial functions moved to another package in NumPy 1.20. Here they raise an error that says so.
    """
    trapezoid = getattr(np, "trapezoid", None) or getattr(np, "trapz")  # noqa: B009  the name before 2.0
    return {
        **{"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str},
        **{"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "string_": np.bytes_},
        **{"PZERO": 0.0, "NZERO": -0.0, "NAN": np.nan, "NaN": np.nan, "NINF": -np.inf},
        **dict.fromkeys(("Inf", "PINF", "infty", "Infinity"), np.inf),
        **{"product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all, "sometrue": np.any},
        **{"in1d": _in1d, "row_stack": np.vstack, "trapz": trapezoid, "msort": _msort},
        **{"round_": np.round, "asfarray": _asfarray, "cast": _Cast()},
        "compat": SimpleNamespace(basestring=str, unicode=str, long=int),
        **_CONSTANTS,
        **{name: _moved_out(name) for name in _FINANCIAL},
    }


class _Stand(ModuleType):
    """The module `numpy` with the names that it had."""

    def __init__(self, name: str, doc: str | None) -> None:
        super().__init__(name, doc)
        self._old = old_names()

    def __getattr__(self, name: str) -> Any:
        # Old names come first: NumPy 2 has `numpy.bool` again, as another type.
        return self._old[name] if name in self._old else getattr(np, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(np), *self._old})


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package's modules as Python does; their code runs with an `__import__` of its own."""

    def __init__(self, package: str, stand: ModuleType) -> None:
        self.package = package
        self._builtins = vars(builtins) | {"__import__": _import_with(stand)}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec with our loader; None for what is not a module of the package in a source file."""
        if fullname.partition(".")[0] != self.package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return spec
        spec.loader = _Loader(spec.loader.name, spec.loader.path, self._builtins)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, names: dict[str, Any]) -> None:
        super().__init__(fullname, path)
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code with the other builtins."""
        module.__dict__["__builtins__"] = self._names
        super().exec_module(module)


def _import_with(stand: ModuleType) -> Callable[..., ModuleType]:
    """Return an `__import__` that gives the stand-in to `import numpy` and `from numpy import ...`."""

    def import_(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        found = builtins.__import__(name, globals, locals, fromlist or (), level)
        return stand if found is np else found

    return import_


def _in1d(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False) -> Any:
    return np.isin(np.ravel(ar1), ar2, assume_unique=assume_unique, invert=invert)


def _msort(a: Any) -> Any:
    return np.sort(a, axis=0)


def _asfarray(a: Any, dtype: Any = np.float64) -> Any:
    """Return an array of floats; a type that is not a float becomes float64."""
    return np.asarray(a, dtype if np.issubdtype(dtype, np.inexact) else np.float64)


class _Cast(dict[Any, Callable[[Any], Any]]):
    """`numpy.cast`, used as `numpy.cast[type](array)`."""

    def __missing__(self, key: Any) -> Callable[[Any], Any]:
        return lambda array: np.asarray(array).astype(key)


_FINANCIAL = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")


def _moved_out(name: str) -> Callable[..., NoReturn]:
    def gone(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"numpy.{name} has been in the package numpy_financial since NumPy 1.20")

    return gone


_CONSTANTS = {
    # numpy/core/include/numpy/ufuncobject.h of 1.26
    **{"ERR_IGNORE": 0, "ERR_WARN": 1, "ERR_RAISE": 2, "ERR_CALL": 3, "ERR_PRINT": 4, "ERR_LOG": 5},
    **{"ERR_DEFAULT": 521, "UFUNC_BUFSIZE_DEFAULT": 8192, "UFUNC_PYVALS_NAME": "UFUNC_PYVALS"},
    **{"SHIFT_DIVIDEBYZERO": 0, "SHIFT_OVERFLOW": 3, "SHIFT_UNDERFLOW": 6, "SHIFT_INVALID": 9},
    **{"FPE_DIVIDEBYZERO": 1, "FPE_OVERFLOW": 2, "FPE_UNDERFLOW": 4, "FPE_INVALID": 8},
    "FLOATING_POINT_SUPPORT": 1,
    # numpy/core/include/numpy/ndarraytypes.h
    **{"CLIP": 0, "WRAP": 1, "RAISE": 2, "MAXDIMS": 32, "ALLOW_THREADS": 1, "BUFSIZE": 8192},
    **{"MAY_SHARE_BOUNDS": 0, "MAY_SHARE_EXACT": -1},
}
