"""docs/threat-model.md names tests; they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent.parent


@pytest.fixture
def named(checkout: Path) -> list[tuple[str, str]]:
    page = (checkout / "docs" / "threat-model.md").read_text()
    return re.findall(r"`([\w/]+\.py)::(\w+)`", page)


def test_every_named_test_exists(named: list[tuple[str, str]]) -> None:
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^ *(async )?def {name}\(", (TESTS / path).read_text(), flags=re.M)
    ]
    assert missing == []
    assert len(named) > 40
