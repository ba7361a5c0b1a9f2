"""Image ids: the id of each image file, and the image that an id in a table refers to.

`Identities.choose` returns the same id for an image in every command. By default, it is the file's name
(`image_id`). With annotations, it is the SOP Instance UID if only that is annotated. Without annotations, it
is the SOP Instance UID where several files have one name (`1/image.dcm`, `2/image.dcm`).

`resolve_id` finds the image of an id in a table: the id itself, or else the id without a file suffix
(`a.dcm`, `a.png`). If no id of a table matches an image, `explain_near_miss` describes the difference.
All ids, of files and of tables, have no white space around them.
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
    from data.annotations.annotation_file import AnnotationRow, Annotations

# ASCII: otherwise IGNORECASE would also match the Turkish dotless i.
_DICOM_SUFFIX = re.compile(r"\.(dcm|dicom)\Z", re.IGNORECASE | re.ASCII)
_FILE_SUFFIX = re.compile(r"\.(dcm|dicom|png|jpg|jpeg)\Z", re.IGNORECASE | re.ASCII)
QUOTES = (
    "'`\u00b4\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2032\u2033\uff02\uff07"
)
"""Characters that editors write instead of `"`."""
_UNSEEN = frozenset({"Cc", "Cf"})  # control characters; zero-width ones, byte order marks, soft hyphens
_KEPT = "\t"  # the control character that counts as a blank


@dataclass(frozen=True)
class Identities:
    """The rule that assigns ids and annotations to image files.

    Attributes:
        rows_of: Annotation rows of each image id; None without annotations.
        shared: Ids (`image_id`) that several files have.
    """

    rows_of: Mapping[str, tuple[AnnotationRow, ...]] | None
    shared: frozenset[str]

    @classmethod
    def of(cls, annotations: Annotations | None, files: Sequence[Path]) -> Identities:
        """Create the rule for all files of a folder."""
        names = Counter(map(image_id, files))
        shared = frozenset(name for name, count in names.items() if count > 1)
        return cls(None if annotations is None else annotations.rows_of, shared)

    def choose(self, file: Path, uid: str) -> str:
        """Return the id of a file's image; `uid` is the SOP Instance UID in its header, or ""."""
        name, uid = image_id(file), trimmed(printable(uid))
        if self.rows_of is None:
            return uid if uid and name in self.shared else name
        return name if name in self.rows_of or uid not in self.rows_of else uid

    def assign_rows(self, files: Sequence[Path]) -> tuple[list[int], int]:
        """Assign a row of the HDF5 file to each image file; return the rows and the number of expected ones.

        The expected rows come first. A file is expected to fill its row if it is annotated, or if there are
        no annotations. Only reading the file shows if it does, but its row must be known before that.
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
    """Return the image id that a file's name gives.

    It is the whole name without one `.dcm` or `.dicom` at its end, in any case, and without white space
    around it; `1.2.276.0` and `CR.0001` have no suffix. It can be printed and stored. It is never empty: a
    name that is only a suffix stays, and a name of blanks becomes escapes.
    """
    name = printable(file.name)
    whole = trimmed(name)
    return trimmed(_DICOM_SUFFIX.sub("", whole)) or whole or "".join(map(_escape, name))


def has_dicom_suffix(file: Path) -> bool:
    """Whether a file's name says that it is DICOM."""
    return _DICOM_SUFFIX.search(trimmed(file.name)) is not None


def resolve_id(written: str, images: Collection[str] = ()) -> str:
    """Return the id of the image that an id in a table refers to.

    Args:
        written: The id, without white space around it.
        images: Ids of known images; there may be others.

    Returns:
        The id itself if it is in `images`. Else suffixes of files (`.dcm`, `.dicom`, `.png`, `.jpg` or
        `.jpeg`, in any case) are removed one by one until the rest is in `images` or has no suffix.
    """
    while written not in images:
        shorter = trimmed(_FILE_SUFFIX.sub("", written))
        if not shorter or shorter == written:
            break
        written = shorter
    return written


def explain_near_miss(written: Collection[str], images: Collection[str]) -> str:
    """Explain why ids of a table match no image, by the first id that nearly matches one.

    Args:
        written: The ids of the table.
        images: Ids of images, none of which is among them.

    Returns:
        A sentence; "" if no id nearly matches.
    """
    known = {_bare(image): image for image in reversed(list(images))}
    for one in written:
        image = known.get(_bare(one))
        if image is not None and image != one:
            return f"The table has {one!r}, and there is {image!r}: {_difference(one, image)}."
    return ""


def _bare(name: str) -> str:
    """Return an id without folders, quotes and suffix, with case and Unicode form normalised."""
    last = trimmed(_unquoted(_without_folders(_unquoted(name))))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", resolve_id(last)).casefold())


def _unquoted(name: str) -> str:
    return trimmed(name.strip(QUOTES)) or name


def _without_folders(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _difference(written: str, image: str) -> str:
    """Describe how two ids differ for which `_bare` returns the same."""
    found = list[str]()
    if (_unquoted(written) == written) != (_unquoted(image) == image):
        found.append('these quotes are not ": remove them')
    written, image = _unquoted(written), _unquoted(image)
    folders = (name.removesuffix(_without_folders(name)) for name in (written, image))
    if len(set(folders)) > 1:
        found.append("an id is the file's name alone")
    one, other = (_unquoted(resolve_id(_without_folders(name))) for name in (written, image))
    composed, other_composed = (unicodedata.normalize("NFC", name) for name in (one, other))
    if composed != other_composed:
        found.append("it differs in upper and lower case")
    elif one != other:
        found.append("it looks the same but is written with other characters (Unicode NFC and NFD)")
    return "; ".join(found) or "an id has no suffix of a file"


def name_below(folder: Path, file: Path) -> str:
    """Return a file's path below the images' folder, in characters that can be printed and stored."""
    return printable(file.relative_to(folder).as_posix())


def printable(text: str) -> str:
    """Replace bytes that are not UTF-8, and control characters, by escapes with a backslash."""
    if text.isprintable():
        return text
    with contextlib.suppress(UnicodeError):  # a name's bytes if the system's encoding is ASCII
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        _escape(one) if unicodedata.category(one) == "Cc" and one not in _KEPT else one for one in text
    )


def trimmed(text: str) -> str:
    """Return a text without white space and invisible characters at its ends."""
    text = text.strip()
    if text and "!" <= text[0] <= "~" and "!" <= text[-1] <= "~":  # nearly all texts
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
