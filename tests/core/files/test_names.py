"""File names for image ids."""

from __future__ import annotations

import hashlib

from core.files.names import FileNames, file_name


def test_files_of_different_ids_never_have_one_name() -> None:
    """Also if `A` and `a` are the same file, and if an id is equal to the changed name of another id."""
    taken = FileNames()
    hashed = file_name("a b")
    ids = ["A", "a", "a b", hashed, hashed.upper(), "b", "1.2.3", "x" * 130, "x" * 131, "a", ""]
    found = [taken.take(image_id) for image_id in ids]
    assert len({name.casefold() for name in found}) == len(ids)
    assert [found[0], found[2], found[5], found[6]] == ["A", hashed, "b", "1.2.3"]
    assert found[1] == f"a-{hashlib.sha256(b'a').hexdigest()[:8]}"
    again = FileNames()
    assert [again.take(image_id) for image_id in ids] == found
