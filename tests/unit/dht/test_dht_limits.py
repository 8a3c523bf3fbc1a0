"""Token buckets and store tokens."""

from __future__ import annotations

import random

from potsherd.dht.limits import TokenBuckets
from potsherd.dht.tokens import Tokens
from potsherd.ports import Address

HERE = Address("8.8.8.8", 4000)


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    buckets = TokenBuckets(rate_per_s=2.0, burst=5.0, names_max=10)
    assert [buckets.allow("a", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [buckets.allow("a", 1.0) for _ in range(3)] == [True, True, False]
    assert buckets.allow("b", 1.0)


def test_a_bucket_never_holds_more_than_a_burst() -> None:
    buckets = TokenBuckets(rate_per_s=100.0, burst=3.0, names_max=10)
    buckets.allow("a", 0.0)
    assert [buckets.allow("a", 1000.0) for _ in range(4)] == [True] * 3 + [False]


def test_the_least_recently_used_name_is_forgotten() -> None:
    buckets = TokenBuckets(rate_per_s=0.0, burst=1.0, names_max=2)
    assert buckets.allow("a", 0.0)
    assert buckets.allow("b", 0.0)
    assert not buckets.allow("a", 0.0)  # used again: now "b" is the oldest
    assert buckets.allow("c", 0.0)
    assert len(buckets) == 2
    assert not buckets.allow("a", 0.0)
    assert buckets.allow("b", 0.0)


def test_a_token_holds_for_its_key_and_address_only() -> None:
    tokens = Tokens(random.Random(1), 300.0)
    token = tokens.issue(b"k" * 32, HERE, 10.0)
    assert len(token) == 8
    assert tokens.check(token, b"k" * 32, HERE, 20.0)
    assert not tokens.check(token, b"x" * 32, HERE, 20.0)
    assert not tokens.check(token, b"k" * 32, Address("8.8.8.8", 4001), 20.0)
    assert not tokens.check(token, b"k" * 32, Address("8.8.8.9", 4000), 20.0)
    assert not tokens.check(bytes(8), b"k" * 32, HERE, 20.0)


def test_a_token_lives_one_to_two_periods() -> None:
    tokens = Tokens(random.Random(1), 300.0)
    token = tokens.issue(b"k" * 32, HERE, 299.0)
    assert tokens.check(token, b"k" * 32, HERE, 301.0)
    assert tokens.check(token, b"k" * 32, HERE, 599.0)
    assert not tokens.check(token, b"k" * 32, HERE, 601.0)


def test_after_a_long_pause_no_old_secret_is_left() -> None:
    tokens = Tokens(random.Random(1), 300.0)
    token = tokens.issue(b"k" * 32, HERE, 0.0)
    assert not tokens.check(token, b"k" * 32, HERE, 3000.0)
    assert not tokens.check(token, b"k" * 32, HERE, 3300.0)
