"""The exception that users see: its text is the message, with the hint on a line of its own."""

from __future__ import annotations

import pytest

from core.base.errors import UserError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("row 3: no id"), "row 3: no id"),
        (UserError("row 3: no id", "Add one."), "row 3: no id\nAdd one."),
        (UserError("row 3: no id", None), "row 3: no id"),
    ],
)
def test_the_text_of_an_error(error: UserError, text: str) -> None:
    assert str(error) == text
    assert error.message == "row 3: no id"
