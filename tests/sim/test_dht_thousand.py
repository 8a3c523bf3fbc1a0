"""Many DHT nodes, at one datagram in a hundred lost: joins, look-ups, records, hops.

Ten thousand of them are a command (docs/design/dht.md): they take longer than a night allows.
"""

from __future__ import annotations

import pytest
from dht_many import measure


@pytest.mark.slow
def test_a_hundred_nodes_find_what_is_announced() -> None:
    measured = measure(100, 40)
    print(measured)
    assert measured.found == 40
    assert 1 <= measured.hops_mean < 3


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_a_thousand_nodes() -> None:
    measured = measure(1000)
    print(measured)
    assert measured.found >= measured.keys - 1
    assert measured.hops_mean < 5
