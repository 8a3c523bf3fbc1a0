"""Who may store how much, and who stays when a key is full."""

from __future__ import annotations

from potsherd.dht.store import Entry, RecordStore, StoreLimits
from potsherd.dht.wire import StoreCode

KEY = b"k" * 20


def entry(
    publisher: int, *, member: int | None = None, prefix: str | None = None, expires: int = 100
) -> Entry:
    member = publisher if member is None else member
    key = publisher.to_bytes(4, "big")
    return Entry(b"%d %d" % (publisher, expires), expires, expires, key, member, prefix, b"chain")


def put(store: RecordStore, item: Entry, *, key: bytes = KEY, utc: float = 0.0) -> StoreCode:
    return store.put(key, item.publisher, item, utc)


def limits(
    *,
    total: int = 100,
    per_key: int = 100,
    per_member: int = 100,
    per_member_and_key: int | None = None,
    per_prefix_and_key: int | None = None,
    per_prefix: int | None = None,
) -> StoreLimits:
    return StoreLimits(
        total, per_key, per_member, per_member_and_key, per_prefix_and_key, per_prefix
    )


def test_a_newcomer_cannot_push_out_who_was_there_and_renews() -> None:
    store = RecordStore(limits(per_key=3))
    for publisher in range(3):
        assert put(store, entry(publisher)) is StoreCode.STORED
    for newcomer in range(3, 50):
        assert put(store, entry(newcomer, expires=10_000)) is StoreCode.FULL
    for publisher in range(3):  # renewing is allowed under a full key
        assert put(store, entry(publisher, expires=200), utc=90) is StoreCode.STORED
    assert [e.publisher[-1] for e in store.get(KEY, 150)] == [0, 1, 2]


def test_who_lets_a_record_lapse_has_lost_its_place() -> None:
    store = RecordStore(limits(per_key=2))
    put(store, entry(0, expires=100))
    put(store, entry(1, expires=200))
    assert put(store, entry(2, expires=300), utc=100) is StoreCode.STORED
    assert put(store, entry(0, expires=400), utc=101) is StoreCode.FULL


def test_the_longest_kept_come_first_and_renewing_does_not_change_that() -> None:
    store = RecordStore(limits())
    for publisher in (5, 3, 9):
        put(store, entry(publisher))
    put(store, entry(5, expires=500))
    assert [e.publisher[-1] for e in store.get(KEY, 0)] == [5, 3, 9]


def test_an_older_record_does_not_replace_a_newer_one() -> None:
    store = RecordStore(limits())
    put(store, entry(1, expires=200))
    assert put(store, entry(1, expires=150)) is StoreCode.OLDER
    assert put(store, entry(1, expires=200)) is StoreCode.STORED
    assert [e.expires for e in store.get(KEY, 0)] == [200]


def test_caps_per_member_and_prefix_hold_within_a_key() -> None:
    store = RecordStore(limits(per_member_and_key=2, per_prefix_and_key=3))
    codes = [put(store, entry(p, member=7, prefix="a")) for p in range(3)]
    assert codes == [StoreCode.STORED, StoreCode.STORED, StoreCode.FULL]
    codes = [put(store, entry(p, prefix="a")) for p in (10, 11)]
    assert codes == [StoreCode.STORED, StoreCode.FULL]
    assert put(store, entry(12, prefix="b")) is StoreCode.STORED
    assert put(store, entry(13, prefix=None)) is StoreCode.STORED
    assert put(store, entry(0, member=7, prefix="a"), key=b"other") is StoreCode.STORED


def test_caps_over_all_keys_hold_and_expiry_frees_room() -> None:
    store = RecordStore(limits(total=4, per_member=2, per_prefix=3))
    assert put(store, entry(1, member=7, prefix="a"), key=b"1") is StoreCode.STORED
    assert put(store, entry(2, member=7, prefix="a"), key=b"2") is StoreCode.STORED
    assert put(store, entry(3, member=7, prefix="a"), key=b"3") is StoreCode.FULL
    assert put(store, entry(4, prefix="a"), key=b"4") is StoreCode.STORED
    assert put(store, entry(5, prefix="a"), key=b"5") is StoreCode.FULL
    assert put(store, entry(6), key=b"6") is StoreCode.STORED
    assert put(store, entry(7), key=b"7") is StoreCode.FULL
    store.sweep(100)
    assert (len(store), store.keys()) == (0, [])
    assert put(store, entry(3, member=7, prefix="a", expires=300), key=b"3") is StoreCode.STORED


def test_renewing_from_another_prefix_moves_the_account() -> None:
    store = RecordStore(limits(per_prefix=1))
    put(store, entry(1, prefix="a"))
    put(store, entry(1, prefix="b", expires=200))
    assert put(store, entry(2, prefix="a")) is StoreCode.STORED
    assert put(store, entry(3, prefix="b")) is StoreCode.FULL


def test_what_has_expired_is_not_told() -> None:
    store = RecordStore(limits())
    put(store, entry(1, expires=10))
    assert len(store.get(KEY, 9.9)) == 1
    assert store.get(KEY, 10) == []
    assert len(store) == 0
