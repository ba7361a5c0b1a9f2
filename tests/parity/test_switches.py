"""Backends declare every size at which they change their way of computing; none is hidden in the source."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutants import Mutant

from core.backend.devices import OnDevice
from core.backend.kernel_switches import Switch, record_switch_values
from core.backend.process import BackendProcess
from core.conformance import Check, all_checks, examine
from core.conformance.switches import SUBJECT, declared_switches

BACKEND_FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "backends").glob("*/model.py"))
NO_CHOICE = {  # comparisons that choose no way of computing, or whose two ways other checks cover
    ("jax/operations.py", "1 in kernel.shape[2:]"): "the geometry and loss checks have both",
    ("jax/operations.py", "channels == 1 < filters"): "the geometry and output block checks have both",
    ("mxnet/layers.py", "axis == 2"): "the upsampling checks have both axes",
    ("mxnet/layers.py", "length == 1"): "the upsampling checks have sides of one pixel",
    ("mxnet/layers.py", "y < 6"): "a kink, which the activation checks meet",
    ("mxnet/model.py", "len(symbols) == 1"): "whether there is an existence head",
    **{
        (f"{name}/layers.py", "x < 6"): "a kink, which the activation checks meet"
        for name in ("jax", "reference")
    },
    ("onnx/operations.py", "len(product.input) == 2"): "whether a node has a bias already",
    ("onnx/operations.py", "arrays[op.gamma] != 1"): "tests/backends/test_onnx.py has both",
    ("tf/devices.py", "counts == 1024"): "tests/backends/test_bfloat16.py has both",
    ("tf/operations.py", "dilation == 1"): "the dilation and groups checks have both",
    ("tf/operations.py", "windows.stride > 1"): "the geometry checks have both",
    ("tf/im2col.py", "self.stride == 1"): "the geometry checks have both: kernels of 1, strides 1 to 3",
}


def comparisons(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield file and text of each comparison with an integer of 1 or more."""
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                numbers = [side for side in sides if isinstance(side, ast.Constant) and side.value]
                whole = [side for side in numbers if type(side.value) is int]
                if whole and not any(
                    ".ndim" in ast.unparse(side) or "shape)" in ast.unparse(side) for side in sides
                ):
                    yield f"{folder.name}/{path.name}", ast.unparse(node)


def constants(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield file and name of each integer constant of a module."""
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    value = eval(compile(ast.Expression(node.value), "", "eval"), {"__builtins__": {}})
                except Exception:
                    continue
                if type(value) is int:
                    yield f"{folder.name}/{path.name}", node.targets[0].id


@pytest.mark.parametrize("folder", BACKEND_FOLDERS, ids=lambda folder: folder.name)
def test_no_way_is_chosen_by_a_number_that_is_not_declared(folder: Path) -> None:
    hidden = [found for found in comparisons(folder) if found not in NO_CHOICE]
    named = [found for found in constants(folder) if found != ("onnx/graph.py", "LARGEST")]  # a size of files
    assert not hidden, f"compare by a core.backend.kernel_switches.Switch: {hidden}"
    assert not named, f"name it by a core.backend.kernel_switches.Switch: {named}"


def test_a_hidden_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "operations.py").write_text(
        "FEW = 2**13\nlong = pixels > 10_000 if x.ndim == 4 else y >= FEW\n"
    )
    assert list(comparisons(tmp_path)) == [(f"{tmp_path.name}/operations.py", "pixels > 10000")]
    assert list(constants(tmp_path)) == [(f"{tmp_path.name}/operations.py", "FEW")]


def in_modules(implementation: object) -> set[str]:
    """Return the names of all switches in the modules of a backend."""
    package = implementation.__name__.rpartition(".")[0]  # type: ignore[attr-defined]
    folder = Path(importlib.import_module(package).__file__ or "").parent
    found = set()
    for path in folder.glob("*.py"):
        module = importlib.import_module(f"{package}.{path.stem}")
        found |= {value.name for value in vars(module).values() if isinstance(value, Switch)}
    return found


def test_a_backend_declares_all_that_it_has(remote: BackendProcess) -> None:
    names = [switch.name for switch in remote.call(declared_switches)]
    assert len(set(names)) == len(names)
    assert remote.call(in_modules) == set(names)  # type: ignore[arg-type]


class NeverAsking:
    """A backend that declares a switch but never asks it."""

    def call(self, function: object, *given: object) -> object:
        if function is declared_switches:
            return (Switch("sums", "pixels of a batch norm", 7),)
        return function(Mutant(), *given)  # type: ignore[operator]


def switch_check(quantity: str) -> Check:
    (check,) = [check for check in all_checks() if str(check) == f"{SUBJECT}: {quantity} (float32)"]
    return check


def test_a_switch_that_is_never_asked_fails() -> None:
    outcome = examine(switch_check("pixels of a batch norm"), NeverAsking())  # type: ignore[arg-type]
    assert outcome.status == "failed"
    assert "sums: the suite met []" in outcome.detail


def test_on_a_gpu_a_switch_of_the_cpus_kernels_need_not_be_asked() -> None:
    class OnGPU(NeverAsking):
        def call(self, function: object, *given: object) -> object:
            if function is declared_switches:
                return super().call(function)
            return function(OnDevice(Mutant(), "gpu:0"), *given)  # type: ignore[operator, arg-type]

    outcome = examine(switch_check("pixels of a batch norm"), OnGPU())  # type: ignore[arg-type]
    assert outcome.status == "passed", outcome.detail


def test_an_error_on_one_side_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 7 pixels on the variance is Bessel-corrected, which a check with fewer pixels cannot detect."""
    from backends.reference import operations
    from backends.reference.operations import Floats

    switch, plain = Switch("sums", "pixels of a batch norm", 7), operations._moments

    def moments(x: Floats) -> tuple[Floats, Floats]:
        mean, variance = plain(x)
        pixels = x.size // x.shape[-1]
        wrong = x.dtype == "float32" and switch.reached(pixels)
        return mean, variance * x.dtype.type(pixels / (pixels - 1)) if wrong else variance

    class Declaring(Mutant):
        def switches(self) -> tuple[Switch, ...]:
            return (switch,)

    monkeypatch.setattr(operations, "_moments", moments)
    outcome = examine(switch_check("pixels of a batch norm"), Declaring())
    assert outcome.status == "failed"
    assert "pixels of a batch norm 7, with 7: relative differences" in outcome.detail


def test_how_a_switch_decides_and_what_it_notes() -> None:
    switch = Switch("rows", "length of a side", 4)
    with record_switch_values() as met:
        assert [switch.reached(value) for value in (3, 4, 5)] == [False, True, True]
        assert [switch.padding_needed(value) for value in (1, 4, 6)] == [3, 0, 2]
        assert [switch.part_count(value) for value in (0, 4, 5, 9)] == [1, 1, 2, 3]
        assert [switch.largest_divisor(value) for value in (6, 7, 8, 9)] == [3, 1, 4, 3]
    assert met == {"rows": {0, 1, 3, 4, 5, 6, 7, 8, 9}}
    switch.reached(77)
    assert 77 not in met["rows"]
