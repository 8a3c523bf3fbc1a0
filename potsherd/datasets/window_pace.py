"""How quickly the windows of long files come, remembered from one file to the next (docs/design/get.md)."""

from __future__ import annotations

__all__ = ["WINDOW_BYTES_MIN", "WINDOW_LIFE_S", "WINDOW_SOON_S", "WindowPace"]

WINDOW_BYTES_MIN = 2**20
"""The first window of a file has this size, so that its first bytes come soon, unless larger ones do too."""
WINDOW_SOON_S = 0.1
"""A window that came in less came soon."""
WINDOW_LIFE_S = 60.0
"""For so long after a window that came soon, another file may begin with one as large."""


class WindowPace:
    """What of long files has come soon lately: what the next file begins with, in whatever archive it is."""

    def __init__(self) -> None:
        self._size = 0
        self._told = float("-inf")

    def first(self, now: float, most: int) -> int:
        """Bytes of a file's first window, at most `most`."""
        return min(max(self._known(now), WINDOW_BYTES_MIN), most)

    def came(self, now: float, size: int, seconds: float) -> None:
        """A window of `size` bytes took so long."""
        if seconds < WINDOW_SOON_S:
            self._size, self._told = max(size, self._known(now)), now
        elif size <= self._size:
            self._size = size // 2

    def _known(self, now: float) -> int:
        return self._size if now - self._told <= WINDOW_LIFE_S else 0
