"""What the images of a folder are called.

Promises: `Identities.choose` gives an image the same id whatever command asks. With annotations, an image
belongs to those of its file's stem, or else of its SOP Instance UID. Without, its id is its file's stem,
or its SOP Instance UID where several files have that stem (`1/image.dcm`, `2/image.dcm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.annotations import Annotations, Row


@dataclass(frozen=True)
class Identities:
    """How files come by their ids and annotations.

    Attributes:
        rows_of: Image id to its rows; None without annotations.
        shared: Stems that several files have.
    """

    rows_of: Mapping[str, tuple[Row, ...]] | None
    shared: frozenset[str]

    @classmethod
    def of(cls, annotations: Annotations | None, files: Sequence[Path]) -> Identities:
        """Those of all files of a folder."""
        stems = Counter(file.stem for file in files)
        shared = frozenset(stem for stem, count in stems.items() if count > 1)
        return cls(None if annotations is None else annotations.rows_of, shared)

    def choose(self, file: Path, uid: str) -> str:
        """The id of a file's image, of which the header says that it is `uid` ("" if it does not)."""
        stem = printable(file.stem)
        if self.rows_of is None:
            return uid if uid and file.stem in self.shared else stem
        return stem if stem in self.rows_of or uid not in self.rows_of else uid

    def places(self, files: Sequence[Path]) -> tuple[list[int], int]:
        """For each file its row, if it has one; and how many rows are expected: those come first.

        A file is expected to have one if annotations say so, or if there are none. Whether it has is known
        only when it was read, but where it has to go must be known before.
        """
        stems = [printable(file.stem) for file in files]
        expected = [True] * len(files)
        if self.rows_of is not None:
            first = {stem: number for number, stem in reversed(list(enumerate(stems)))}
            expected = [stem in self.rows_of and first[stem] == n for n, stem in enumerate(stems)]
        order = sorted(range(len(files)), key=lambda number: not expected[number])
        rows = [0] * len(files)
        for row, number in enumerate(order):
            rows[number] = row
        return rows, sum(expected)


def name_below(folder: Path, file: Path) -> str:
    """A file's path below the images' folder, in characters that can be printed and stored."""
    return printable(file.relative_to(folder).as_posix())


def printable(text: str) -> str:
    """Bytes of a name that are no UTF-8 become escapes, written with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode()
