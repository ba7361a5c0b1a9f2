"""Probing a backend in a process of its own works whatever that process does."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from core.backend import availability
from core.backend.availability import probe, probe_all

# The code of each backend's `list_devices`.
DOES = {
    "talkative": "print('[1, 2]'); sys.stderr.write('a warning\\n'); return ['cpu', 'gpu:0']",
    "crashing": "sys.stderr.write('first of all\\nthen\\nthe reason\\n\\n'); sys.stderr.flush(); os._exit(3)",
    "silent": "os._exit(4)",
    "aborting": "sys.stderr.write('one line'); sys.stderr.flush(); os.abort()",
    "angry": "raise RuntimeError('no such luck')",
    "slow": "time.sleep(60)",
    "binary": "os.write(1, b'\\xff\\xfe\\n'); return ['cpu']",
}
MODULE = """
import os, sys, time

def list_devices():
    {}
"""


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install a distribution with the backends of `DOES`."""
    folder = tmp_path_factory.mktemp("probed")
    (folder / "probed-1.0.dist-info").mkdir()
    (folder / "probed-1.0.dist-info" / "METADATA").write_text("Name: probed\nVersion: 1.0\n")
    entries = "".join(f"{name} = probed_backends:{name}\n" for name in DOES)
    (folder / "probed-1.0.dist-info" / "entry_points.txt").write_text(f"[pneumoseg.backends]\n{entries}")
    descriptors = "from core.backend.contract import Backend\n"
    for name, code in DOES.items():
        descriptors += f"{name} = Backend('{name}', 'Its title', None, ('numpy',), 'pip', 'probed_{name}')\n"
        (folder / f"probed_{name}.py").write_text(MODULE.format(code))
    (folder / "probed_backends.py").write_text(descriptors)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("probed_backends", None)


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "devices", "error"),
    [
        ("talkative", ["cpu", "gpu:0"], None),
        ("binary", ["cpu"], None),
        ("crashing", [], "failed (exit status 3): the reason"),
        ("silent", [], "failed (exit status 4): no message"),
        ("angry", [], "failed (exit status 1): RuntimeError: no such luck"),
    ],
)
def test_the_last_line_says_why_it_failed(name: str, devices: list[str], error: str | None) -> None:
    found = probe(name)
    assert (found.name, found.title, found.installed) == (name, "Its title", True)
    assert (found.devices, found.error) == (devices, error)


@pytest.mark.usefixtures("third_party")
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_process_that_a_signal_ended() -> None:
    found = probe("aborting")
    assert found.error is not None
    assert found.error.startswith("failed (exit status -6): ")


@pytest.mark.usefixtures("third_party")
def test_one_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "TIMEOUT_S", 1)
    assert (probe("slow").devices, probe("slow").error) == ([], "did not answer within 1 s")


@pytest.mark.usefixtures("third_party")
def test_all_are_probed_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "backend_names", lambda: ["angry", "binary", "crashing", "nowhere"])
    found = probe_all()
    assert [one.name for one in found] == ["angry", "binary", "crashing", "nowhere"]
    assert [one.devices for one in found] == [[], ["cpu"], [], []]
    assert not found[-1].installed
    assert "unknown backend 'nowhere'" in (found[-1].error or "")
