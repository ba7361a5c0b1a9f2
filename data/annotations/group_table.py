"""Tables that divide images into groups: an id in the column `image_id`, and further named columns.

Read as annotation files are (`data.annotations.table`): commas, semicolons or tabs, UTF-8 or UTF-16, gzip or
zip, ids with or without `.dcm`. Column names count without regard to case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from core.base.errors import UserError
from data.annotations.compressed_tables import unpack
from data.annotations.image_ids import explain_near_miss, printable, resolve_id, trimmed
from data.annotations.table_columns import DELIMITERS
from data.annotations.table_records import read_records
from data.annotations.table_text import decode_text, read_bytes

ID_NAMES = ("imageid", "image_id", "id")
"""Names of the column of image ids, in lower case."""

_EXPECTED = "Expected a table with a column image_id and further named columns, as in image_id,view,hospital."


def read_groups(path: Path, images: Collection[str]) -> Mapping[str, Mapping[str, str]]:
    """Read a table of groups.

    Args:
        path: The file.
        images: The ids of the images that are to be divided.

    Returns:
        For each further column, by its name in lower case, the text of each image in the table by its id.
        Empty cells are left out.

    Raises:
        UserError: The file is missing, unreadable or no such table, two rows contradict each other, or no
            row is of one of the images.
    """
    text = decode_text(path, unpack(path, read_bytes(path, "groups"), _EXPECTED), _EXPECTED)
    first = next(filter(str.strip, text.splitlines()), "")
    delimiter = max(DELIMITERS, key=first.count)
    names: list[str] = []
    place = -1
    groups: dict[str, dict[str, str]] = {}
    written: list[str] = []
    for record in read_records(path, text, delimiter, _EXPECTED):
        row = [trimmed(cell) for cell in record.cells]
        if not any(row):
            continue
        if not names:
            names = [printable(cell).casefold() for cell in row]
            place = _check_names(path, names)
            groups = {name: {} for number, name in enumerate(names) if number != place}
            continue
        if len(row) != len(names):
            raise UserError(
                f"{path}, row {record.number}: {len(row)} cells under {len(names)} column names.", _EXPECTED
            )
        image = resolve_id(row[place], images)
        written.append(row[place])
        for name, cell in zip(names, row, strict=True):
            if name not in groups or not cell:
                continue
            if groups[name].setdefault(image, printable(cell)) != printable(cell):
                raise UserError(
                    f"{path}, row {record.number}: image {printable(image)} has {name} {printable(cell)!r}, "
                    f"and {groups[name][image]!r} in another row.",
                    "Give each image one row.",
                )
    if not names:
        raise UserError(f"{path} is empty.", _EXPECTED)
    if not any(image in known for known in groups.values() for image in images):
        raise UserError(
            f"{path}: none of its {len(written)} rows has a group of one of the {len(images)} images.",
            explain_near_miss(written, images) or _EXPECTED,
        )
    return groups


def _check_names(path: Path, names: list[str]) -> int:
    """Return the index of the column of ids."""
    ids = [number for number, name in enumerate(names) if name in ID_NAMES]
    if len(ids) != 1 or len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise UserError(f"{path}: the columns are {', '.join(map(repr, names))}.", _EXPECTED)
    return ids[0]
