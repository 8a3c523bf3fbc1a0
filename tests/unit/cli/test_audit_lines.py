"""Lines on audits, the own disk, and why a piece lies where it lies."""

from __future__ import annotations

from typing import Any

from potsherd.cli.node import _audit_lines
from potsherd.cli.repairing import _only, _why_text

DAY = 86_400


def auditing(**scrub: int) -> dict[str, Any]:
    return {
        "audits": {"newest": 0, "proofs": 0, "passed": 0, "failed": 0, "silent": 0},
        "scrub": {"finished": 0, "began": 0, "found": 0, "mended": 0, "damaged": 0} | scrub,
    }


def test_what_was_never_done_is_said() -> None:
    audits, disk = _audit_lines(auditing())
    assert audits.startswith("audits   last none yet;")
    assert disk.startswith("disk     not read yet;")


def test_damage_is_a_line_of_its_own() -> None:
    lines = _audit_lines(auditing(finished=10 * DAY, began=40 * DAY, found=3, mended=1, damaged=2))
    assert "read to the end 1970-01-11 00:00 UTC, reading since 1970-02-10" in lines[1]
    assert "3 damaged cells found, 1 pieces mended" in lines[1]
    assert lines[2].startswith("DAMAGED  2 pieces on this disk")


def facts() -> dict[str, Any]:
    holders = [
        {
            "index": index,
            "key": f"{index}" * 64,
            "standing": "live",
            "doubt": None,
            "proven_at": DAY if index else None,
            "proven_row": 7 if index else None,
        }
        for index in range(3)
    ]
    return {
        "segment": "ab" * 32,
        "held": True,
        "k": 1,
        "n": 3,
        "r": 2,
        "live": 3,
        "distinct": 3,
        "index": 0,
        "since": 5,
        "repair_rank": 2,
        "bad_encoding": False,
        "holders": holders,
        "places": [{"index": 1, "key": "1" * 64, "place": 4}],
        "dropped": [{"index": 2, "date": DAY, "reason": "surplus", "detail": "kept\nelsewhere"}],
        "log": [{"date": 2 * DAY, "text": "index 0 was brought\x1b here"}],
    }


def test_why_says_what_is_known_and_prints_no_control_characters() -> None:
    text = _why_text(facts())
    assert (
        "piece    1 on 1111111111111111: live, proven 1970-01-02 00:00 UTC, cell 7, number 4"
        in text
    )
    assert "number 2 in the order of repairers" in text
    assert "dropped  piece 2 on 1970-01-02 00:00 UTC: surplus, kept\\nelsewhere" in text
    assert "brought\\x1b here" in text
    assert "\x1b" not in text


def test_one_piece_of_it() -> None:
    text = _why_text(_only(facts(), 1))
    assert "piece    1 on" in text
    assert "piece    0 on" not in text
    assert "surplus" not in text


def test_a_segment_that_is_not_here_any_more() -> None:
    gone = {key: facts()[key] for key in ("segment", "log", "dropped")} | {"held": False}
    assert "here     not kept by this node" in _why_text(gone)
