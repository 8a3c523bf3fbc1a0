"""The forecast that `stat` shows: what the holders have just proven, given to `potsherd.durability`.

The churn of this network is not measured by a client; until a node's own counts are lent to it, the
stated priors of the model stand in, and the words say so.
"""

from __future__ import annotations

from collections.abc import Mapping

from potsherd.datasets.health import Health
from potsherd.durability.census import Churn, HeldShard, SegmentCensus, State, repairs_within
from potsherd.durability.forecast import Forecast, forecast
from potsherd.node.placement import Domain
from potsherd.node.session import Session

__all__ = ["HOLDERS_REPAIR_S", "outlook"]

HOLDERS_REPAIR_S = 15 * 86400.0
"""Mean seconds from a loss to its repair by the holders: a node is gone after 14 days (its habits may say
sooner or later), then come the next round and the transfer. An assumption, and weighed as one."""


async def outlook(
    session: Session, health: Health, domains: Mapping[bytes, tuple[Domain, ...]]
) -> Forecast | None:
    """Chance of loss within a year; None when not even a descriptor of some segment was found.

    `domains`: where the holders stand (`standing.donors_near`).
    """
    if not all(segment.r for segment in health.segments):
        return None
    churn = Churn(repairs=repairs_within(HOLDERS_REPAIR_S))
    return await session.env.offload(_forecast, health, domains, churn)


def _forecast(
    health: Health, domains: Mapping[bytes, tuple[Domain, ...]], churn: Churn
) -> Forecast:
    return forecast(
        [
            SegmentCensus(
                segment.k,
                segment.n,
                segment.r,
                tuple(
                    HeldShard(
                        shard.key, shard.index, _state(shard.live), domains.get(shard.key, ())
                    )
                    for shard in segment.shards
                ),
                segment.stream_length,
            )
            for segment in health.segments
        ],
        churn,
    )


def _state(live: bool) -> State:
    return "live" if live else "away"
