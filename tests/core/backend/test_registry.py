"""Backends are found by their entry points, and a broken one does not affect the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.backend.availability import probe
from core.backend.registry import backend_names, find_backend, load_backend, require_backend
from core.base.errors import UserError

OTHERS = """[pneumoseg.backends]
homemade = homemade_backend:backend
missing_module = nowhere_to_be_found:backend
missing_name = homemade_backend:nothing
wrong_type = homemade_backend:number
uninstalled = homemade_backend:uninstalled
broken_inside = homemade_backend:broken_inside
"""
MODULE = """
from core.backend.contract import Backend

backend = Backend("homemade", "Home", None, ("numpy",), "pip install home", "backends.reference.model")
number = 3
uninstalled = Backend("uninstalled", "Far", "far_framework", ("far",), "pip install far", "far.model")
broken_inside = Backend("broken_inside", "Bad", "json", ("bad",), "pip install bad", "homemade_broken")
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a distribution with working and broken backends, as another project would."""
    (tmp_path / "homemade-1.0.dist-info").mkdir()
    (tmp_path / "homemade-1.0.dist-info" / "METADATA").write_text("Name: homemade\nVersion: 1.0\n")
    (tmp_path / "homemade-1.0.dist-info" / "entry_points.txt").write_text(OTHERS)
    (tmp_path / "homemade_backend.py").write_text(MODULE)
    (tmp_path / "homemade_broken.py").write_text("import a_library_it_forgot_to_ask_for\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield
    for name in ("homemade_backend", "homemade_broken"):
        sys.modules.pop(name, None)


def test_the_toolkits_own_backends_are_registered() -> None:
    assert {"mxnet", "reference", "tf"} <= set(backend_names())
    for name in ("mxnet", "reference", "tf"):
        assert find_backend(name).name == name
    assert not {"tensorflow", "mxnet"} & sys.modules.keys()


@pytest.mark.usefixtures("third_party")
def test_a_third_partys_backend_is_found_like_the_own_ones() -> None:
    assert "homemade" in backend_names()
    backend, implementation = load_backend("homemade")
    assert backend.title == "Home"
    assert implementation.list_devices() == ["cpu"]
    assert probe("homemade").devices == ["cpu"]
    assert probe("homemade").error is None


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing_module", "backend 'missing_module' is broken: nowhere_to_be_found:backend: No module"),
        ("missing_name", "backend 'missing_name' is broken: homemade_backend:nothing: "),
        ("wrong_type", "homemade_backend:number is not a core.backend.contract.Backend"),
        ("uninstalled", "needs Far, which is not installed\nRun: pip install far"),
        ("broken_inside", "installed but cannot be imported: No module named 'a_library_it_forgot"),
    ],
)
def test_a_broken_backend_is_named_and_disturbs_no_other(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_backend(name)
    assert message in str(caught.value)
    assert probe(name).error is not None
    assert find_backend("tf").name == "tf"


@pytest.mark.parametrize(("typed", "meant"), [("tff", "tf"), ("mxnt", "mxnet"), ("ref", "reference")])
def test_a_mistyped_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown backend '{typed}'; did you mean '{meant}'"):
        require_backend(typed)


def test_a_strange_name_is_answered_with_the_list() -> None:
    with pytest.raises(
        UserError, match=r"unknown backend 'qqqqq'; Known: jax, mxnet, onnx, reference, tf, torch"
    ):
        require_backend("qqqqq")
