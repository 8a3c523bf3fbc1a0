"""Who gets the shards: distinct holders, free space, soft limits in their order."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.errors import UsageError
from potsherd.node.placement import Candidate, domains_of, free_class, place
from potsherd.ports import Address


def candidate(
    number: int,
    *,
    host: str = "10.0.0.1",
    operator: str = "",
    site: str = "",
    room: int = 30,
    availability: float = 1.0,
    proven: bool | None = None,
) -> Candidate:
    return Candidate(
        key=number.to_bytes(32, "big"),
        dht_id=number.to_bytes(20, "big"),
        address=Address(host, 4800),
        operator=operator,
        site=site,
        free_class=room,
        availability=availability,
        proven=proven,
    )


@st.composite
def crowds(draw: st.DrawFn) -> list[Candidate]:
    return [
        candidate(
            number,
            host=draw(st.sampled_from(["10.0.0.1", "8.8.8.1", "8.8.8.9", "9.9.9.1", "1.1.1.1"])),
            operator=draw(st.sampled_from(["", "a", "b", "c"])),
            site=draw(st.sampled_from(["", "x", "y"])),
            room=draw(st.integers(0, 63)),
            availability=draw(st.floats(0, 1)),
            proven=draw(st.sampled_from([None, True, False])),
        )
        for number in range(draw(st.integers(0, 14)))
    ]


codes = st.tuples(st.integers(1, 8), st.integers(0, 4), st.integers(0, 4)).map(
    lambda t: (t[0] + t[1] + t[2], t[0], t[0] + t[1])
)


def excess(holders: tuple[Candidate, ...], limit: int) -> tuple[int, int]:
    """The slow, obvious measure: shards too many in domains, then on unproven nodes."""
    counts = Counter(domain for holder in holders for domain in domains_of(holder))
    domains = sum(max(0, count - limit) for count in counts.values())
    return domains, max(0, sum(h.proven is False for h in holders) - limit)


@given(crowds(), codes, st.integers(0, 2**32))
def test_holders_are_distinct_and_as_many_as_there_are(
    crowd: list[Candidate], code: tuple[int, int, int], seed: int
) -> None:
    n, k, r = code
    placement = place(crowd, n, k, r, rng=random.Random(seed))
    keys = [holder.key for holder in placement.holders]
    assert len(set(keys)) == len(keys) == min(n, len(crowd))
    assert placement.missing == n - len(keys)
    assert set(placement.holders) <= set(crowd)


@given(crowds(), codes, st.integers(0, 2**32))
def test_data_columns_go_to_the_most_available(
    crowd: list[Candidate], code: tuple[int, int, int], seed: int
) -> None:
    n, k, r = code
    availability = [h.availability for h in place(crowd, n, k, r, rng=random.Random(seed)).holders]
    assert availability == sorted(availability, reverse=True)


@given(crowds(), codes, st.integers(0, 2**32))
def test_no_single_exchange_would_keep_the_limits_better(
    crowd: list[Candidate], code: tuple[int, int, int], seed: int
) -> None:
    n, k, r = code
    holders = place(crowd, n, k, r, rng=random.Random(seed)).holders
    rest = [c for c in crowd if c not in holders]
    limit = max(1, n - r)  # what one piece in a domain has too many can nobody help
    reached = excess(holders, limit)
    for i, other in itertools.product(range(len(holders)), rest):
        exchanged = (*holders[:i], other, *holders[i + 1 :])
        assert excess(exchanged, limit) >= reached


@given(crowds(), codes, st.integers(0, 2**32))
def test_a_compromise_is_reported_when_there_is_one_and_only_then(
    crowd: list[Candidate], code: tuple[int, int, int], seed: int
) -> None:
    n, k, r = code
    placement = place(crowd, n, k, r, rng=random.Random(seed))
    limit = max(1, n - r)
    assert bool(placement.compromises) == (excess(placement.holders, limit) != (0, 0))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_with_one_kind_of_domain_the_excess_is_the_least_possible(
    sites: list[int], seed: int, n: int, limit: int
) -> None:
    limit = max(1, min(limit, n - 1))
    if n == 1:
        return
    crowd = [candidate(i, site=f"site {site}") for i, site in enumerate(sites)]
    holders = place(crowd, n, 1, n - limit, rng=random.Random(seed)).holders
    size = min(n, len(crowd))
    best = min(excess(c, limit) for c in itertools.combinations(crowd, size))
    assert excess(holders, limit) == best


def test_the_domain_limit_goes_before_the_record() -> None:
    """A spread over sites is worth more than nodes with a record, when both cannot be had."""
    proven = [candidate(i, site="one", proven=True) for i in range(6)]
    fresh = [candidate(10 + i, site=f"other {i}", proven=False) for i in range(6)]
    holders = place(proven + fresh, 6, 2, 4, rng=random.Random(1)).holders
    assert sum(h.site == "one" for h in holders) == 2
    assert place(proven, 6, 2, 4, rng=random.Random(1)).compromises == (
        "6 pieces of a segment with one site (one), at most 2 wanted",
    )


def test_local_addresses_share_no_domain_but_their_declared_site() -> None:
    lab = candidate(1, host="127.0.0.1", operator="me")
    assert domains_of(lab) == ()
    assert domains_of(replace(lab, site="cellar")) == (("site", "cellar"),)
    public = candidate(1, host="8.8.8.8", operator="me", site="hall")
    assert domains_of(public) == (("operator", "me"), ("network", "8.8.8.0/24"), ("site", "hall"))
    sixth = candidate(1, host="2606:4700:4700::1111")
    assert domains_of(sixth) == (("network", "2606:4700:4700::/48"),)
    relayed = replace(public, address=None)
    assert domains_of(relayed) == (("operator", "me"), ("site", "hall"))


def test_a_lab_on_loopback_makes_no_compromise() -> None:
    lab = [candidate(i, host="127.0.0.1", operator="me") for i in range(12)]
    assert place(lab, 12, 4, 8, rng=random.Random(1)).compromises == ()


def test_more_room_draws_more_shards() -> None:
    crowd = [candidate(i, room=30 if i < 20 else 34) for i in range(40)]
    drawn: Counter[int] = Counter()
    rng = random.Random(5)
    for _ in range(300):
        drawn.update(h.free_class for h in place(crowd, 4, 1, 2, rng=rng).holders)
    assert drawn[34] > 8 * drawn[30] > 0


def test_excluded_nodes_and_doubles_get_nothing() -> None:
    crowd = [candidate(i) for i in range(4)]
    double = replace(crowd[0], address=Address("10.9.9.9", 1))
    same_id = replace(candidate(9), dht_id=crowd[1].dht_id)
    placement = place(
        [*crowd, double, same_id], 6, 1, 3, rng=random.Random(2), exclude={crowd[3].key}
    )
    assert {h.key for h in placement.holders} == {c.key for c in crowd[:3]}
    assert placement.missing == 3


def test_the_choice_follows_from_the_seed() -> None:
    crowd = [candidate(i) for i in range(30)]
    one, same, other = (place(crowd, 10, 4, 7, rng=random.Random(s)).holders for s in (1, 1, 2))
    assert one == same != other


def test_classes_of_free_space() -> None:
    assert [free_class(b) for b in (-5, 0, 1, 2, 1023, 1024, 2**40, 2**80)] == [
        0, 0, 0, 1, 9, 10, 40, 63,
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "k", "r"), [(4, 5, 5), (4, 2, 1), (4, 2, 5), (4, 0, 2)])
def test_a_code_that_is_none_is_refused(n: int, k: int, r: int) -> None:
    with pytest.raises(UsageError):
        place([], n, k, r, rng=random.Random(1))
