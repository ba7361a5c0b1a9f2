"""Small annotation files and submissions for tests."""

from __future__ import annotations

from pathlib import Path

from data.annotations.annotation_file import Annotations, read_annotations

SIZE = (7, 5)
TRUTH = "ImageId,EncodedPixels\na,1 2\nb,-1\nc,3 4\nd,0 1\nd,1 x\n"


def annotations(folder: Path, text: str) -> Annotations:
    path = folder / "truth.csv"
    path.write_text(text)
    return read_annotations(path)


def submission(folder: Path, text: str) -> Path:
    path = folder / "submission.csv"
    path.write_text(text)
    return path
