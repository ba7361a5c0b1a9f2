"""Errors of the operating system as a `UserError` that names the path, the reason and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from core.base.errors import UserError

_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, or write somewhere else.",
    errno.EDQUOT: "The disk quota is used up: free some space, or write somewhere else.",
    errno.EROFS: "The disk is read-only: write somewhere else.",
    errno.EACCES: "Permission denied: check the rights, or write somewhere else.",
    errno.EPERM: "Permission denied: check the rights, or write somewhere else.",
    errno.EFBIG: "The file would be larger than this system allows.",
    errno.EBUSY: "It is mounted by itself, or in use: write somewhere else.",
    errno.EPIPE: "Its reader ended before it had everything.",
}


def as_user_error(error: OSError, path: Path | str, action: str) -> UserError:
    """Return the `UserError` for an `OSError` that was raised during `action` ("write", "read") on `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0)
    if hint and action == "read":
        hint = hint.replace(", or write somewhere else", "")
    return UserError(f"cannot {action} {path}: {reason}", hint)


@contextlib.contextmanager
def explain_os_errors(path: Path | str, action: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise as_user_error(error, path, action) from error
