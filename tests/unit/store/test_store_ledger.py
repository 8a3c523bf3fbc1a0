"""The ledger's arithmetic: what is charged never falls below what the disk may carry."""

from __future__ import annotations

import pytest

from potsherd.errors import QuotaError
from potsherd.node.store.ledger import (
    INDEX_BASE_BYTES,
    Ledger,
    Reservation,
    file_reserve,
    held_bytes,
    stage_index_bytes,
)

PAGE = 8192


def ledger(quota: int = 10_000_000) -> Ledger:
    return Ledger(quota, fixed=1_000_000, page_bytes=PAGE)


def test_a_reservation_is_rounded_up_to_pages_plus_ten_percent() -> None:
    assert stage_index_bytes(0, 0, PAGE) == PAGE + 820
    whole = stage_index_bytes(12, 60_000, PAGE)
    assert whole * 10 // 11 % PAGE == 0 and whole >= 1.1 * 60_000
    assert file_reserve(1) == 4096 + 4096 + 512
    assert file_reserve(4096) == file_reserve(1) < file_reserve(4097)


def test_what_is_free_can_be_reserved_to_the_last_byte_and_no_further() -> None:
    book = ledger()
    with pytest.raises(QuotaError):
        book.reserve(Reservation(file=book.free, index=1))
    book.reserve(Reservation(file=book.free))
    assert book.free == 0 and book.used == book.quota


def test_the_reserve_of_the_index_grows_with_the_shards() -> None:
    book = ledger()
    before = book.used
    book.add_shard(12, 0)
    assert book.used - before == held_bytes(1, 12, 0) > 12 * 100
    book.drop_shard(12, 0)
    assert book.used == before


def test_a_commit_may_grow_into_what_is_free_but_not_beyond() -> None:
    book = ledger()
    book.pages = INDEX_BASE_BYTES // PAGE
    book.reserve(Reservation(file=book.free - 3 * PAGE))
    limit = book.open_commit(10 * PAGE)
    assert limit == book.pages + 3
    assert book.free == 0  # nobody else may reserve what the commit may take
    book.close_commit(limit)
    assert book.used <= book.quota


def test_growth_that_is_expected_costs_nothing() -> None:
    book = ledger()
    book.add_shard(12, 500_000)
    used = book.used
    book.open_commit(20 * PAGE)
    assert book.used == used
    book.close_commit(20)
    assert book.used == used


def test_what_a_stage_has_reserved_is_there_at_its_commit_even_if_the_index_is_fragmented() -> None:
    book = ledger()
    book.pages = 100  # far more than is expected for no shards
    stage = Reservation(file=0, index=stage_index_bytes(255, 65_000, PAGE))
    book.reserve(stage)
    book.reserve(Reservation(file=book.free))
    book.settle(stage, 0, 12, 65_000)
    assert book.open_commit(12 * PAGE) >= 100 + 65_000 // PAGE + 1
    assert book.used <= book.quota
    book.close_commit(110)
    assert book.used <= book.quota


def test_a_failed_settlement_is_undone() -> None:
    book = ledger()
    stage = Reservation(file=100_000, index=50_000)
    book.reserve(stage)
    used = book.used
    book.settle(stage, 70_000, 12, 0)
    book.unsettle(stage, 70_000, 12, 0)
    assert book.used == used
    book.cancel(stage)
    assert book.staged == 0


def test_a_quota_below_what_is_used_leaves_nothing_free() -> None:
    book = ledger(quota=500_000)
    assert book.free == 0 and book.used > book.quota
    with pytest.raises(QuotaError):
        book.reserve(Reservation(file=1))
    assert book.open_commit(PAGE) * PAGE >= INDEX_BASE_BYTES - PAGE
