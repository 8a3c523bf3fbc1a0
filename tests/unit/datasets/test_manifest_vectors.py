"""The format of manifest pages is what the vectors say, not what the code happens to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potsherd import errors
from potsherd.datasets.pages import SELF, PageDraft, build_page, parse_page
from potsherd.wire import unpack

FOLDER = Path(__file__).parents[2] / "vectors" / "manifest"
CASES = sorted(FOLDER.glob("*.json"))


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    case = json.loads(path.read_text())
    data = bytes.fromhex(case["page"])
    if case["error"] is not None:
        with pytest.raises(getattr(errors, case["error"])):
            parse_page(data)
        return
    page = parse_page(data)
    assert len(data) == case["length"]
    assert plain(unpack(data, size_max=len(data))) == case["plain"]
    assert page.encode() == data
    own = [row.segment_id for row in page.segments].index(SELF)
    draft = PageDraft(page.level, page.entries, page.children, page.root)
    assert build_page(draft, page.segments, own) == data


def test_there_are_vectors_of_both_kinds() -> None:
    good = [path for path in CASES if not path.stem.startswith("bad-")]
    assert len(good) >= 6 and len(CASES) - len(good) >= 30
