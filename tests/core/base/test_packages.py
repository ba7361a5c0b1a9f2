"""The table of packages agrees with setup.py, and failed imports get the right message."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from core.base.errors import UserError
from core.base.packages import LIGHT, USES, WORKERS, explain_missing, require

ROOT = Path(__file__).resolve().parents[3]


def wanted() -> list[str]:
    """Return the lines of `install_requires`."""
    found = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert found is not None
    return re.findall(r'^ *"(.*?)"', found[1], re.MULTILINE) + re.findall(r"^ *(MXNET_.*),", found[1])


def plain(requirement: str) -> str:
    """Return the package name of a requirement, normalized as package indexes do."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_package_that_setup_wants_is_in_the_table() -> None:
    always = [use for use in USES if use is not WORKERS]  # an extra
    known = {plain(package) for use in always for package in use.values()}
    names = {plain(line) for line in wanted()} - {"mxnet-needs-numpy"}
    assert len(names) > 15
    # numpy may be written as a constant there. The decoder of JPEG 2000 is a plug-in of pylibjpeg.
    assert names | {"numpy"} == known | {"pylibjpeg"}


def test_the_light_list_is_in_the_file() -> None:
    lines = (ROOT / "requirements-light.txt").read_text().splitlines()
    assert sorted(line for line in lines if not line.startswith("#")) == sorted(LIGHT.values(), key=str)


@pytest.mark.parametrize("name", ["pydicom", "pydicom.uid", "jpeg_ls", "google.protobuf"])
def test_what_is_there_is_no_package_that_is_missing(name: str) -> None:
    explained = explain_missing(ModuleNotFoundError(f"No module named {name!r}", name=name))
    if "." in name:  # a module that this version of a package does not have
        assert explained is None
    else:
        assert explained is not None


@pytest.mark.parametrize("name", ["data", "core.nothing", "numpyy", None])
def test_a_defect_stays_one(name: str | None) -> None:
    assert explain_missing(ModuleNotFoundError("No module", name=name)) is None


def test_metadata_that_are_missing_are_a_package_that_is_missing() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError) as caught:
        importlib.metadata.version("no-such-package")
    assert explain_missing(caught.value) is None
    explained = explain_missing(importlib.metadata.PackageNotFoundError("highdicom"))
    assert str(explained).endswith("Run: pip install highdicom")


def test_what_is_required_and_there_is_no_error() -> None:
    require(["numpy", "h5py"], "this test")


def test_what_is_required_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in ("cv2", "jpeg_ls"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        require(["numpy", "cv2", "jpeg_ls"], "--picture")
    assert str(caught.value) == (
        "--picture needs opencv-python-headless (module cv2), which is not installed\n"
        "Run: pip install opencv-python-headless pyjpegls"
    )
