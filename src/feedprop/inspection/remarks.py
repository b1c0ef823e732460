"""What is wrong, in words."""

from __future__ import annotations

from typing import Any


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    return []
