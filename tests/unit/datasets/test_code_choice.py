"""Which code a put uses: what was asked for, or what suits the number of donors."""

from __future__ import annotations

import pytest

from potsherd.datasets.network import CodeChoice
from potsherd.datasets.storing import choose_code
from potsherd.errors import RefusedError, UsageError


@pytest.mark.parametrize(
    ("donors", "asked", "chosen"),
    [
        (2, (None, None, None), (1, 2, 2, 2)),
        (12, (None, None, None), (4, 9, 7, 8)),
        (12, (None, None, 9), (4, 9, 9, 9)),
        (12, (3, 10, None), (3, 10, 7, 9)),
        (12, (3, 10, 10), (3, 10, 10, 10)),
        (12, (3, 10, 3), (3, 10, 3, 7)),
    ],
)
def test_codes(
    donors: int, asked: tuple[int | None, int | None, int | None], chosen: tuple[int, int, int, int]
) -> None:
    assert choose_code(donors, *asked) == CodeChoice(*chosen)


@pytest.mark.parametrize("asked", [(3, 10, 2), (3, 10, 11), (10, 3, None), (3, None, None)])
def test_codes_that_are_none(asked: tuple[int, int | None, int | None]) -> None:
    with pytest.raises(UsageError):
        choose_code(12, *asked)


def test_more_pieces_than_donors_are_refused() -> None:
    with pytest.raises(RefusedError, match="only 9 answer"):
        choose_code(9, 3, 10, 8)
