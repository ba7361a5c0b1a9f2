"""The exception for errors that users can correct.

Whatever a user can cause (a missing file, a wrong key, a framework that is not installed, a full disk) ends
as a `UserError`. Its text says what is wrong, where, what was received and what to do. `core.commands` prints
it as one line without a traceback and exits non-zero. Any other exception is a defect of this project and
keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can correct. Its text is the whole message.

    Args:
        message: What is wrong, where (file, row, key), and what was received.
        hint: What to do about it. It is printed on a line of its own.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"
