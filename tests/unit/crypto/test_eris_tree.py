"""The arithmetic of trees against trees that are really built."""

from __future__ import annotations

import pytest

from potsherd.crypto.eris import TreeShape
from potsherd.errors import UsageError

LENGTHS = [*range(40), 63, 64, 65, 99, 127, 128, 129, 200]
BLOCK = 4  # bytes; with fake arities the trees are deep and small


def built(content_length: int, arity: int) -> list[tuple[int, int]]:
    """Post-order by recursion over a tree that was stacked up level by level."""
    rows = [list(range(content_length // BLOCK + 1))]
    while len(rows[-1]) > 1:
        rows.append(list(range(-(-len(rows[-1]) // arity))))

    def walk(level: int, index: int) -> list[tuple[int, int]]:
        children = range(index * arity, (index + 1) * arity) if level else ()
        below = [n for c in children if c < len(rows[level - 1]) for n in walk(level - 1, c)]
        return [*below, (level, index)]

    return walk(len(rows) - 1, 0)


@pytest.mark.parametrize("arity", [2, 3, 16])
@pytest.mark.parametrize("length", LENGTHS)
def test_post_order_positions_and_their_inverse(length: int, arity: int) -> None:
    shape = TreeShape(length, BLOCK, arity=arity)
    order = built(length, arity)
    assert shape.blocks_total == len(order)
    assert shape.encoded_length == len(order) * BLOCK
    assert [shape.position(level, index) for level, index in order] == list(range(len(order)))
    assert [shape.at(position) for position in range(len(order))] == order


@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 17, 31, 32, 33])
def test_blocks_of_a_range_are_the_paths_to_its_leaves(length: int, arity: int) -> None:
    shape = TreeShape(length, BLOCK, arity=arity)
    for start in range(length + 3):
        for size in (0, 1, 2, 4, 7, 100):
            wanted = set()
            for place in range(start, min(start + size, length)):
                index = place // BLOCK
                for level in range(shape.levels):
                    wanted.add((level, index))
                    index //= arity
            found = shape.blocks_of_range(start, size)
            assert set(found) == wanted
            assert len(found) == len(wanted)
            assert [level for level, _ in found] == sorted((lv for lv, _ in found), reverse=True)


def test_children_count_the_level_below() -> None:
    shape = TreeShape(33, BLOCK, arity=3)
    for level in range(1, shape.levels):
        assert (
            sum(shape.children(level, index) for index in range(shape.widths[level]))
            == shape.widths[level - 1]
        )
    assert shape.children(0, 0) == 0


@pytest.mark.parametrize(
    ("length", "block_size", "widths"),
    [
        (0, 1024, (1,)),
        (1023, 1024, (1,)),
        (1024, 1024, (2, 1)),
        (16 * 1024 - 1, 1024, (16, 1)),
        (16 * 1024, 1024, (17, 2, 1)),
        (16 * 2**20 - 1, 32768, (512, 1)),
        (16 * 2**20, 32768, (513, 2, 1)),
        (8 * 2**30, 32768, (262145, 513, 2, 1)),
    ],
)
def test_real_sizes(length: int, block_size: int, widths: tuple[int, ...]) -> None:
    assert TreeShape(length, block_size).widths == widths


def test_wrong_questions() -> None:
    shape = TreeShape(100, 1024)
    for bad in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        with pytest.raises(UsageError):
            shape.position(*bad)
    for position in (-1, 1):
        with pytest.raises(UsageError):
            shape.at(position)
    with pytest.raises(UsageError):
        TreeShape(-1, 1024)
    with pytest.raises(UsageError):
        shape.blocks_of_range(-1, 5)
