"""Sets of timers with a name: those of the service, and those of a lab in which weeks pass in seconds.

*Fast* is for labs and tests on one machine: a node that is killed is given up after about 20 seconds, and
every timer that follows from that one is shortened with it (docs/durability.md). In a real network it would
repair every machine that is started again.
"""

from __future__ import annotations

from dataclasses import replace

from potsherd.dht import DhtConfig
from potsherd.errors import UsageError
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import FreezePolicy
from potsherd.node.repair.claims import ClaimPolicy
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.settings import NodeSettings

__all__ = ["FAST", "NORMAL", "PACES", "at_pace"]

NORMAL, FAST = "normal", "fast"
PACES = (NORMAL, FAST)

_LOSS = LossPolicy(
    prior_s=18.0, learned_s=600.0, floor_s=16.0, sleeper_floors=2.0, ceiling_s=60.0, missed_s=6.0
)
_FREEZE = FreezePolicy(window_s=8.0, freeze_max_s=6.0, memory_s=40.0)
_CLAIMS = ClaimPolicy(lapse_s=10.0, total_s=60.0, frozen_s=5.0, rest_s=5.0, passed_over_s=60.0)
_REPAIR = RepairSettings(
    round_s=5.0,
    tick_s=1.0,
    pool_life_s=4.0,
    standby_s=4.0,
    patience_s=8.0,
    partition_s=8.0,
    retry_s=15.0,
    settle_s=5.0,
    reconsider_s=60.0,
    claims=_CLAIMS,
)
_AUDIT = AuditSettings(
    period_s=60.0,
    round_s=10.0,
    tick_s=1.0,
    recheck_s=15.0,
    scrub_round_s=60.0,
    mend_retry_s=15.0,
    journal_flush_s=2.0,
)
_DHT = DhtConfig(
    tick_s=2.0,
    bucket_refresh_s=60.0,
    contact_ping_s=10.0,
    questionable_s=10.0,
    failure_spacing_s=2.0,
    suspect_s=10.0,
    regreet_s=1.0,
    presence_lifetime_s=60.0,
    presence_period_s=15.0,
    restore_period_s=20.0,
)


def at_pace(settings: NodeSettings, pace: str) -> NodeSettings:
    """The same settings with the timers of `pace`; limits stay. Raises UsageError for an unknown one."""
    if pace == NORMAL:
        return settings
    if pace != FAST:
        raise UsageError(f"there are no timers called {pace!r}: {' or '.join(PACES)}")
    return replace(
        settings,
        presence_period_s=5.0,
        join_retry_s=1.0,
        join_retry_max_s=10.0,
        heartbeat_s=2.0,
        heartbeat_timeout_s=2.0,
        away_after_s=5.0,
        loss=_LOSS,
        freeze=_FREEZE,
        peers_save_s=10.0,
        survey_period_s=10.0,
        roster_period_s=5.0,
        reconcile_round_s=10.0,
        reconcile_tick_s=1.0,
        announce_period_s=20.0,
        announce_tick_s=1.0,
        retention_round_s=30.0,
        retention_tick_s=2.0,
        move_retry_s=5.0,
        watch_period_s=5.0,
        sweep_period_s=30.0,
        repair=replace(
            _REPAIR,
            bytes_per_s=settings.repair.bytes_per_s,
            readable_target=settings.repair.readable_target,
        ),
        audit=_AUDIT,
        dht=_DHT,
        store=replace(settings.store, staging_idle_s=120.0),
    )
