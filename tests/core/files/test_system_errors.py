"""Errors of the operating system that become a `UserError`."""

from __future__ import annotations

import errno
import os

import pytest

from core.base.errors import UserError
from core.files.system_errors import explain_os_errors


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission denied"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "larger than"),
    ],
)
def test_what_the_system_refuses_is_explained(number: int, hint: str) -> None:
    with pytest.raises(UserError) as caught, explain_os_errors("there.h5", "read"):
        raise OSError(number, os.strerror(number))
    assert caught.value.message == f"cannot read there.h5: {os.strerror(number)}"
    assert hint in (caught.value.hint or "")
    assert number != errno.EACCES or "write" not in (caught.value.hint or "")
