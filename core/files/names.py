"""File names for image ids: valid on every system, and different for different ids."""

from __future__ import annotations

import hashlib
import re

_LONGEST_NAME = 120
_HASH_DIGITS = 8
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


def file_name(image_id: str) -> str:
    """Return a file name that is valid on any system. A changed id gets a part of its hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).strip(".-")[:_LONGEST_NAME]
    if safe == image_id and not _RESERVED.fullmatch(safe):
        return safe
    return f"{safe or 'image'}-{hashlib.sha256(image_id.encode()).hexdigest()[:_HASH_DIGITS]}"


class FileNames:
    """Distinct file names for several ids, also on systems where `A` and `a` are the same file."""

    def __init__(self) -> None:
        self._taken = set[str]()

    def take(self, image_id: str) -> str:
        """Return `file_name` of an id, with a part of its hash if an earlier id has that name."""
        plain = name = file_name(image_id)
        digest = hashlib.sha256(image_id.encode()).hexdigest()
        digits = _HASH_DIGITS
        while name.casefold() in self._taken:
            name = f"{plain}-{digest[:digits]}"
            digits += 1
        self._taken.add(name.casefold())
        return name
