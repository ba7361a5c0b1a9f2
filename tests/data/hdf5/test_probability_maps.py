"""The file of probability maps: written in blocks, and removed if it cannot be completed."""

from __future__ import annotations

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.hdf5 import probability_maps
from data.hdf5.probability_maps import ProbabilityFile, is_probability_file


def test_what_was_added_is_there_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probability_maps, "_BLOCK", 3 * 4 * 5 * 7)
    maps = np.random.default_rng(0).random((8, 5, 7), dtype=np.float32)
    ids = ["a", "", "ü/ß", *"defgh"]
    with ProbabilityFile(tmp_path / "p.h5", 5, 7, 30, {"framework": "tf", "flip": True}) as file:
        for number, (image_id, found) in enumerate(zip(ids, maps, strict=True)):
            file.add(image_id, (10 + number, 20 + number), found)
    with h5py.File(tmp_path / "p.h5") as written:
        assert sorted(written) == [
            f"{kind}_{n}" for kind in ("ids", "probabilities", "sizes") for n in range(3)
        ]
        assert [len(written[f"ids_{n}"]) for n in range(3)] == [3, 3, 2]
        assert [text for n in range(3) for text in written[f"ids_{n}"].asstr()[:]] == ids
        assert written["probabilities_0"].shape == (3, 5, 7, 1)
        together = np.concatenate([written[f"probabilities_{n}"][..., 0] for n in range(3)])
        np.testing.assert_array_equal(together, maps)
        sizes = np.concatenate([written[f"sizes_{n}"][:] for n in range(3)])
        assert sizes.dtype == np.int32
        np.testing.assert_array_equal(sizes, np.arange(8)[:, None] + [10, 20])
        attributes = dict(written.attrs)
    assert attributes.pop("format") == b"pneumoseg-probabilities"
    assert attributes == {
        "format_version": 1,
        "images": 8,
        "height": 5,
        "width": 7,
        "framework": b"tf",
        "flip": 1,
    }
    assert is_probability_file(tmp_path / "p.h5")


def test_maps_larger_than_a_block_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probability_maps, "_BLOCK", 4 * 5 * 7 - 1)
    with ProbabilityFile(tmp_path / "p.h5", 5, 7, 3, {}) as file:
        for name in "abc":
            file.add(name, (5, 7), np.zeros((5, 7), np.float32))
    with h5py.File(tmp_path / "p.h5") as written:
        assert [len(written[f"ids_{n}"]) for n in range(3)] == [1, 1, 1]


def test_no_map_at_all(tmp_path: Path) -> None:
    with ProbabilityFile(tmp_path / "p.h5", 5, 7, 4, {}):
        pass
    with h5py.File(tmp_path / "p.h5") as written:
        assert (list(written), written.attrs["images"]) == ([], 0)


def test_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with h5py.File(tmp_path / "other", "w") as file:
        file.attrs["format"] = "pneumoseg-data"
    assert not any(is_probability_file(tmp_path / name) for name in ("text", "other", "nowhere"))


def test_an_error_of_the_caller_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> None:
        with ProbabilityFile(tmp_path / "p.h5", 5, 7, 4, {}) as file:
            file.add("a", (1, 1), np.zeros((5, 7), np.float32))
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_missing_room_is_told_before_the_first_map(tmp_path: Path) -> None:
    """Space is reserved for the largest number of maps: 30 of 50 x 70 have 420 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, fits in ((400_000, False), (500_000, True)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            if fits:
                with ProbabilityFile(tmp_path / "p.h5", 50, 70, 30, {}) as file:
                    file.add("a", (1, 1), np.zeros((50, 70), np.float32))
            else:
                with pytest.raises(OSError, match="too large"):
                    ProbabilityFile(tmp_path / "p.h5", 50, 70, 30, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "p.h5").stat().st_size < 100_000, "only what was added stays"
