"""One image's result: what a process that dies leaves behind, and what a caption says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.commands.results import Job, Result, Task, area_mm2, crashed
from core.thresholds import Thresholds
from data.headers import Geometry
from data.reading import Source


def test_a_crash_costs_one_image_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("masks", "overlays", "segmentations")]
    job = Job(Thresholds(), None, *folders)
    for folder in folders:
        folder.mkdir()
        for name in ("a", "b"):
            (folder / f"{name}{'.dcm' if folder.name == 'segmentations' else '.png'}").write_text("half")
    source = Source(tmp_path / "a.dcm", "a.dcm", "a", height=4, width=5)
    result = crashed(Task(source, np.zeros((2, 2), np.float32)), job)
    assert (result.encoding, result.positive) == ("-1", False)
    assert "killed the process" in result.failure
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["b.dcm", "b.png", "b.png"]


def test_areas() -> None:
    source = Source(Path("a"), "a", "a", geometry=Geometry((0.5, 0.25), "PixelSpacing"))
    assert area_mm2(source, 12) == pytest.approx(1.5)
    assert area_mm2(Source(Path("a"), "a", "a"), 12) is None
    assert Result(source, pixels=1).positive
