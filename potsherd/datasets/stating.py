"""`stat` over a network: what is known of a dataset, and what it may expect."""

from __future__ import annotations

from typing import Any

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability
from potsherd.datasets.audits import Audited, audited
from potsherd.datasets.context import Context
from potsherd.datasets.health import Health
from potsherd.datasets.outlook import outlook
from potsherd.datasets.pages import RootInfo
from potsherd.datasets.retrieving import open_dataset
from potsherd.datasets.standing import Standing, count_donors, keeping_by, standing_of
from potsherd.datasets.verifying import examine_all
from potsherd.durability.forecast import Forecast
from potsherd.erasure.descriptor import defaults
from potsherd.node.patience import both
from potsherd.node.retention import FOREVER, Verdict

__all__ = ["StatReport", "stat"]


@dataclass(frozen=True)
class StatReport:
    """What is known of a dataset: from its root page, and from its holders just now."""

    info: RootInfo
    capability: ReadCapability
    entry_segment: bytes
    health: Health
    forecast: Forecast | None
    """Chance of loss within a year; None when a segment could not even be described."""
    standing: Standing
    audits: Audited
    """What holders say of audits among themselves."""

    @property
    def stream_bytes(self) -> int:
        """Ciphertext before coding."""
        return sum(segment.stream_length for segment in self.health.segments)

    def as_json(self) -> dict[str, Any]:
        """Plain facts, no secrets."""
        weakest, totals = self.health.weakest, self.info.totals
        return {
            "title": self.info.title,
            "created": self.info.created,
            "dataset_id": self.info.dataset_id.hex(),
            "archive": self.info.archive,
            "files": totals.files,
            "folders": totals.folders,
            "symlinks": totals.symlinks,
            "content_bytes": totals.content_bytes,
            "stream_bytes": self.stream_bytes,
            "k": weakest.k,
            "n": weakest.n,
            "r": weakest.r,
            "w": defaults(weakest.k, weakest.n)[1],
            "live": weakest.live,
            "away": weakest.count("away"),
            "gone": weakest.count("gone"),
            "wrong": weakest.count("wrong"),
            "state": self.standing.state,
            "attainable": self.standing.attainable,
            "donors": self.standing.donors,
            "spread": [vars(spread) for spread in self.standing.spread],
            "keeping": _keeping_json(self.standing.keeping),
            "survives": weakest.survives,
            "on_target": self.health.on_target,
            "readable": self.health.readable,
            "wrong_shards": self.health.wrong,
            "proven_at": self.health.proven_at,
            "cells": self.health.cells,
            "cells_proven": self.health.cells_proven,
            "proof": "every cell" if self.health.deep else "one random cell of each piece",
            "audits": vars(self.audits),
            "forecast": _forecast_json(self.forecast),
            "segments": [
                {
                    "segment": segment.segment_id.hex(),
                    "entry": segment.segment_id == self.entry_segment,
                    "k": segment.k,
                    "n": segment.n,
                    "live": segment.live,
                    "stream_bytes": segment.stream_length,
                    "pieces": [shard.facts() for shard in segment.shards],
                }
                for segment in self.health.segments
            ],
        }


def _keeping_json(verdict: Verdict | None) -> dict[str, Any] | None:
    """Dates; None for an end that never comes."""
    if verdict is None:
        return None
    ends, gone = (None if date >= FOREVER else date for date in (verdict.ends, verdict.gone))
    return {"ends": ends, "gone": gone, "reason": verdict.reason if ends is not None else None}


def _forecast_json(found: Forecast | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "loss_probability": found.probability,
        "low": found.low,
        "high": found.high,
        "years": found.years,
        "survives": found.survives,
        "share_lost": found.share_lost,
        "readable": found.readable,
        "words": found.words(),
    }


async def stat(context: Context, capability: ReadCapability) -> StatReport:
    """Root page and a sampled examination. Raises NotFoundError, NotEnoughShards."""
    session = context.session
    archive = await open_dataset(context, capability)
    entry = archive.entry.segment
    health, ((donors, domains), keeping) = await both(
        examine_all(context, archive, deep=False),
        both(count_donors(session, archive.manifest.segments), keeping_by(session, entry)),
    )
    expected, told = await both(outlook(session, health, domains), audited(session, health))
    standing = standing_of(health, donors, domains, keeping)
    info = archive.manifest.info
    return StatReport(info, capability, entry.segment_id, health, expected, standing, told)
