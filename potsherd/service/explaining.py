"""Why a piece lies where it lies: what this node knows and has noted of a segment (`potsherd why`)."""

from __future__ import annotations

from typing import Any

from potsherd.errors import NotFoundError, PotsherdError, UsageError
from potsherd.node.node import Node
from potsherd.node.repair.plan import repair_ranks
from potsherd.node.repair.view import Seen
from potsherd.node.store import Held

__all__ = ["explain"]

PREFIX_DIGITS_MIN = 4
"""Hex digits of a segment id that must be given."""
LINES_MAX = 400
"""Lines of the journal in one answer, the newest ones."""


async def explain(node: Node, prefix: str) -> dict[str, Any]:
    """Everything about the one segment whose id begins so.

    Raises UsageError for what is no prefix or fits several, NotFoundError when nothing is known.
    """
    segment_id = await _find(node, prefix)
    lines = [[line.date, line.text] for line in node.why(segment_id)][-LINES_MAX:]
    dropped = [d for d in await node.store.dropped() if d.segment_id == segment_id]
    found: dict[str, Any] = {
        "segment": segment_id.hex(),
        "key": node.identity.key.hex(),
        "held": False,
        "log": [{"date": date, "text": text} for date, text in lines],
        "dropped": [
            {"date": d.date, "index": d.index, "reason": d.reason, "detail": d.detail}
            for d in dropped
        ],
    }
    held = await node.store.held(segment_id)
    return found if held is None else {**found, **await _held(node, held)}


async def _find(node: Node, prefix: str) -> bytes:
    digits = prefix.lower()
    if not PREFIX_DIGITS_MIN <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        raise UsageError(f"a segment is named by {PREFIX_DIGITS_MIN} to 64 of its hex digits")
    known = {line.segment_id for line in node.why()}
    known |= {dropped.segment_id for dropped in await node.store.dropped()}
    fitting = {segment_id for segment_id in known if segment_id.hex().startswith(digits)}
    before = int(digits.ljust(64, "0"), 16) - 1
    after = before.to_bytes(32, "big") if before >= 0 else b""
    fitting |= {
        held.segment_id
        for held in await node.store.segments(after, 2)
        if held.segment_id.hex().startswith(digits)
    }
    if len(fitting) > 1:
        raise UsageError("that begins the names of several segments: give more digits")
    if not fitting:
        raise NotFoundError("this node knows nothing of such a segment")
    return fitting.pop()


async def _held(node: Node, held: Held) -> dict[str, Any]:
    caretaker = node.caretaker
    seen = await caretaker.view.look(held)
    d, health = held.descriptor, seen.health
    live = [entry.node for entry in seen.entries if entry.held]
    return {
        "held": True,
        "index": held.index,
        "since": held.committed,
        "k": d.k,
        "n": d.n,
        "r": health.wanted,
        "live": health.live,
        "distinct": health.distinct,
        "missing": list(health.missing),
        "repair_rank": 1 + repair_ranks(held.segment_id, live).index(node.identity.key),
        "holders": await _holders(node, seen),
        "places": await _places(node, seen),
        "bad_encoding": caretaker.auditing.encodings.is_bad(held.segment_id),
    }


async def _holders(node: Node, seen: Seen) -> list[dict[str, Any]]:
    proofs = {p.node: p for p in await node.store.audits.proofs(seen.held.segment_id)}
    rows = []
    for entry in seen.entries:
        proof, doubt = proofs.get(entry.node), node.caretaker.doubts.about(entry)
        standing = seen.standings.get(entry.node)
        rows.append(
            {
                "index": entry.index,
                "key": entry.node.hex(),
                "standing": standing.name.lower() if standing is not None else "released",
                "doubt": doubt.name.lower() if doubt is not None else None,
                "proven_at": proof.date if proof is not None else None,
                "proven_row": proof.row if proof is not None else None,
            }
        )
    return sorted(rows, key=lambda row: (row["index"], row["key"]))


async def _places(node: Node, seen: Seen) -> list[dict[str, Any]] | None:
    """For each holder its place in this node's order for its index; None when the pool is not known now."""
    rows: list[dict[str, Any]] = []
    for entry in seen.entries:
        if not entry.held or entry.node == node.identity.key:
            continue
        try:
            view = await node.caretaker.places.view(seen, entry.node)
        except PotsherdError:
            return None
        order = [candidate.key for candidate in view.order(entry.index)]
        place = 1 + order.index(entry.node) if entry.node in order else None
        rows.append({"index": entry.index, "key": entry.node.hex(), "place": place})
    return rows
