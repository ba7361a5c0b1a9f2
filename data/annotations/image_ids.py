"""What the images of a folder are called, and which image an id in a table means.

Promises: `Identities.choose` gives an image the same id whatever command asks. With annotations, an image
belongs to those of its file's name (`image_id`), or else of its SOP Instance UID. Without, its id is its
file's name, or its SOP Instance UID where several files have that name (`1/image.dcm`, `2/image.dcm`).

`meant` is the one rule by which an id that was written in a table finds its image: the very id first, and
then the id without a suffix that belongs to a file (`a.dcm`, `a.png`). Where no id of a table finds one,
`nearest` says in what way one nearly does. All ids, of files and of tables, are without white space around
them.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.annotations.annotation_file import Annotations, Row

# ASCII: or the Turkish dotless i would do for an i.
_DICOM_SUFFIX = re.compile(r"\.(dcm|dicom)\Z", re.IGNORECASE | re.ASCII)
_FILE_SUFFIX = re.compile(r"\.(dcm|dicom|png|jpg|jpeg)\Z", re.IGNORECASE | re.ASCII)
QUOTES = (
    "'`\u00b4\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2032\u2033\uff02\uff07"
)
"""Characters that editors put in the place of `"`."""
_UNSEEN = frozenset({"Cc", "Cf"})  # control characters; zero-width ones, byte order marks, soft hyphens
_KEPT = "\t"  # of the control characters: a blank like any other


@dataclass(frozen=True)
class Identities:
    """How files come by their ids and annotations.

    Attributes:
        rows_of: Image id to its rows; None without annotations.
        shared: Ids (`image_id`) that several files have.
    """

    rows_of: Mapping[str, tuple[Row, ...]] | None
    shared: frozenset[str]

    @classmethod
    def of(cls, annotations: Annotations | None, files: Sequence[Path]) -> Identities:
        """Those of all files of a folder."""
        names = Counter(map(image_id, files))
        shared = frozenset(name for name, count in names.items() if count > 1)
        return cls(None if annotations is None else annotations.rows_of, shared)

    def choose(self, file: Path, uid: str) -> str:
        """The id of a file's image, of which the header says that it is `uid` ("" if it does not)."""
        name, uid = image_id(file), trimmed(printable(uid))
        if self.rows_of is None:
            return uid if uid and name in self.shared else name
        return name if name in self.rows_of or uid not in self.rows_of else uid

    def places(self, files: Sequence[Path]) -> tuple[list[int], int]:
        """For each file its row, if it has one; and how many rows are expected: those come first.

        A file is expected to have one if annotations say so, or if there are none. Whether it has is known
        only when it was read, but where it has to go must be known before.
        """
        names = list(map(image_id, files))
        expected = [True] * len(files)
        if self.rows_of is not None:
            first = {name: number for number, name in reversed(list(enumerate(names)))}
            expected = [name in self.rows_of and first[name] == n for n, name in enumerate(names)]
        order = sorted(range(len(files)), key=lambda number: not expected[number])
        rows = [0] * len(files)
        for row, number in enumerate(order):
            rows[number] = row
        return rows, sum(expected)


def image_id(file: Path) -> str:
    """What the image of a file is called by its name.

    The whole name, without one `.dcm` or `.dicom` at its end, in any case, and without white space around
    it; `1.2.276.0` and `CR.0001` have no suffix. It can be printed and stored, and is never empty: a name
    that is nothing but a suffix stays, and blanks become escapes.
    """
    name = printable(file.name)
    whole = trimmed(name)
    return trimmed(_DICOM_SUFFIX.sub("", whole)) or whole or "".join(map(_escape, name))


def has_dicom_suffix(file: Path) -> bool:
    """Whether a file's name says that it is DICOM."""
    return _DICOM_SUFFIX.search(trimmed(file.name)) is not None


def meant(written: str, images: Collection[str] = ()) -> str:
    """The image that an id in a table means.

    Args:
        written: The id, without white space around it.
        images: Ids of images that are known; there may be others.

    Returns:
        The id itself if an image has it; else the id without the suffixes of a file, `.dcm`, `.dicom`,
        `.png`, `.jpg` or `.jpeg` in any case, as soon as an image has that.
    """
    while written not in images:
        shorter = trimmed(_FILE_SUFFIX.sub("", written))
        if not shorter or shorter == written:
            break
        written = shorter
    return written


def nearest(written: Collection[str], images: Collection[str]) -> str:
    """What keeps ids of a table from being those of images, told of the first one that nearly is.

    Args:
        written: The ids that a table has.
        images: Ids of images, none of which is among them.

    Returns:
        A sentence; "" where no id is near.
    """
    known = {_bare(image): image for image in reversed(list(images))}
    for one in written:
        image = known.get(_bare(one))
        if image is not None and image != one:
            return f"The table has {one!r}, and there is {image!r}: {_difference(one, image)}."
    return ""


def _bare(name: str) -> str:
    """What is left of an id without its folders, quotes, suffix, case and way of writing."""
    last = trimmed(_unquoted(_without_folders(_unquoted(name))))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", meant(last)).casefold())


def _unquoted(name: str) -> str:
    return trimmed(name.strip(QUOTES)) or name


def _without_folders(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _difference(written: str, image: str) -> str:
    """How two ids differ that are `_bare` the same."""
    found = list[str]()
    if (_unquoted(written) == written) != (_unquoted(image) == image):
        found.append('these quotes are not ": remove them')
    written, image = _unquoted(written), _unquoted(image)
    folders = (name.removesuffix(_without_folders(name)) for name in (written, image))
    if len(set(folders)) > 1:
        found.append("an id is the file's name alone")
    one, other = (_unquoted(meant(_without_folders(name))) for name in (written, image))
    composed, other_composed = (unicodedata.normalize("NFC", name) for name in (one, other))
    if composed != other_composed:
        found.append("it differs in upper and lower case")
    elif one != other:
        found.append("it looks the same but is written with other characters (Unicode NFC and NFD)")
    return "; ".join(found) or "an id has no suffix of a file"


def name_below(folder: Path, file: Path) -> str:
    """A file's path below the images' folder, in characters that can be printed and stored."""
    return printable(file.relative_to(folder).as_posix())


def printable(text: str) -> str:
    """Bytes of a name that are no UTF-8, and control characters, become escapes, written with a backslash."""
    if text.isprintable():
        return text
    with contextlib.suppress(UnicodeError):  # the bytes of a name where the system's own encoding is ASCII
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        _escape(one) if unicodedata.category(one) == "Cc" and one not in _KEPT else one for one in text
    )


def trimmed(text: str) -> str:
    """A text without white space around it, and without characters there that cannot be seen either."""
    text = text.strip()
    if text and "!" <= text[0] <= "~" and "!" <= text[-1] <= "~":  # nearly all
        return text
    start, end = 0, len(text)
    while start < end and _is_unseen(text[start]):
        start += 1
    while start < end and _is_unseen(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_unseen(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in _UNSEEN


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
