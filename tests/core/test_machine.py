"""What is known of the machine."""

from __future__ import annotations

import os

from core.machine import available_cores


def test_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
