"""What a file's first window is, after what has come before."""

from __future__ import annotations

from potsherd.datasets.window_pace import WINDOW_BYTES_MIN, WINDOW_LIFE_S, WINDOW_SOON_S, WindowPace

MIB = 2**20
MOST = 16 * MIB
SOON, LATE = WINDOW_SOON_S / 2, 2 * WINDOW_SOON_S


def paced(*windows: tuple[int, float]) -> WindowPace:
    pace = WindowPace()
    for second, (size, seconds) in enumerate(windows):
        pace.came(float(second), size, seconds)
    return pace


def test_the_first_file_begins_small() -> None:
    assert WindowPace().first(0.0, MOST) == WINDOW_BYTES_MIN
    assert WindowPace().first(0.0, 40_000) == 40_000


def test_the_largest_that_came_soon_is_the_next_first() -> None:
    pace = paced((MIB, SOON), (16 * MIB, SOON), (4 * MIB, SOON))
    assert pace.first(3.0, MOST) == 16 * MIB
    assert pace.first(3.0, 8 * MIB) == 8 * MIB


def test_what_is_small_and_comes_soon_says_nothing_of_large_windows() -> None:
    assert paced(*[(4096, SOON)] * 100).first(100.0, MOST) == WINDOW_BYTES_MIN


def test_what_comes_late_is_half_as_large_the_next_time() -> None:
    pace = paced((16 * MIB, SOON), (8 * MIB, LATE))
    assert pace.first(2.0, MOST) == 4 * MIB
    assert paced((4 * MIB, SOON), (16 * MIB, LATE)).first(2.0, MOST) == 4 * MIB
    assert paced((4 * MIB, SOON), (MIB, LATE)).first(2.0, MOST) == WINDOW_BYTES_MIN


def test_it_is_forgotten_after_a_while() -> None:
    pace = paced((16 * MIB, SOON))
    assert pace.first(WINDOW_LIFE_S, MOST) == 16 * MIB
    assert pace.first(WINDOW_LIFE_S + 1, MOST) == WINDOW_BYTES_MIN
    pace.came(WINDOW_LIFE_S + 1, 2 * MIB, SOON)
    assert pace.first(WINDOW_LIFE_S + 2, MOST) == 2 * MIB
