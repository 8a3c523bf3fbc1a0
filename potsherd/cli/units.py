"""Sizes, durations, dates and addresses as people write them.

Sizes are bytes with a decimal or a binary unit, `500GB` (10^9) or `1TiB` (2^40); a bare `500G` is refused,
because people mean either.  Durations are `90s`, `15min`, `12h`, `30d`, `4w`, `2y` (365 days); a bare `m` is
refused, because it could be minutes or months.  Output uses decimal units, like disks are sold.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime

from potsherd.errors import UsageError
from potsherd.ports import Address

__all__ = [
    "format_address",
    "format_age",
    "format_count",
    "format_date",
    "format_duration",
    "format_size",
    "parse_address",
    "parse_code",
    "parse_date",
    "parse_duration",
    "parse_keep",
    "parse_key",
    "parse_range",
    "parse_size",
]

SIZE_BYTES_MAX = 2**63 - 1
"""Bytes: what SQLite and the file systems can count."""
DURATION_S_MAX = 1000 * 365 * 86400
"""Seconds: a thousand years; keeps dates within what `datetime` can show."""

_SIZE_UNITS = {"": 1, "b": 1}
for _exponent, _letter in enumerate("kmgtpe", 1):
    _SIZE_UNITS[f"{_letter}b"] = 1000**_exponent
    _SIZE_UNITS[f"{_letter}ib"] = 1024**_exponent
_DURATION_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


def _amount(text: str, units: dict[str, int], what: str, example: str) -> int:
    match = _AMOUNT.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or unit not in units:
        raise UsageError(f"{text!r} is not a {what}", remedy=f"Write it like {example}.")
    from decimal import Decimal

    return int(Decimal(match[1]) * units[unit])


def parse_size(text: str) -> int:
    """`50GB`, `1.5TiB`, `4096` → bytes. Raises UsageError."""
    size = _amount(text, _SIZE_UNITS, "size", "500GB (10^9 bytes) or 500GiB (2^30)")
    if size > SIZE_BYTES_MAX:
        raise UsageError(f"{text!r} is more than any disk holds")
    return size


def parse_duration(text: str) -> int:
    """`30d`, `12h`, `90s` → whole seconds. Raises UsageError."""
    seconds = _amount(text, _DURATION_UNITS, "duration", "90s, 15min, 12h, 30d, 4w or 2y")
    if seconds > DURATION_S_MAX:
        raise UsageError(f"{text!r} is more than a thousand years")
    return seconds


def parse_date(text: str, now: float) -> int:
    """`2030-01-31` (its end, UTC) or a duration from `now` → seconds since 1970. Raises UsageError."""
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return int(now) + parse_duration(text)
    return int(day.timestamp()) + 86400


def parse_keep(text: str, now: float) -> tuple[int, int]:
    """`5y`, `2050-12-31` or `forever` → (date until which to keep, or 0; seconds from now, 0 for a day).

    Raises UsageError, also for what lies in the past.
    """
    if text.strip().lower() == "forever":
        return 0, 0
    until = parse_date(text, now)
    if until <= now:
        raise UsageError(f"{text!r} is over already")
    return until, 0 if "-" in text else until - int(now)


def parse_key(text: str) -> bytes:
    """64 hex digits → a key. Raises UsageError."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"{text!r} is no key", remedy="A key has 64 hex digits.")
    return key


def parse_address(text: str, *, port: int | None = None) -> Address:
    """`192.0.2.1:4800`, `[2001:db8::1]:4800`; `port` is used when none is written. Raises UsageError.

    Only literal addresses: a name would make a node's identity depend on somebody's DNS.
    """
    match = re.fullmatch(
        r"\[(?P<v6>[^\]]+)\](?::(?P<p6>\d+))?|(?P<v4>[^:]+)(?::(?P<p4>\d+))?", text
    )
    wrong = UsageError(
        f"{text!r} is not an address", remedy="Write it like 127.0.0.1:4800 or [2001:db8::1]:4800."
    )
    if match is None:
        raise wrong
    number = match["p6"] or match["p4"]
    if number is None and port is None:
        raise wrong
    try:
        host = str(ipaddress.ip_address(match["v6"] or match["v4"]))
    except ValueError:
        raise wrong from None
    value = int(number) if number is not None else port
    if value is None or value > 65535:
        raise wrong
    return Address(host, value)


def parse_range(text: str) -> tuple[int, int | None]:
    """`A-B` → (A, B) with B excluded; `A-` → (A, None), to the end. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,19})-(\d{1,19})?", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(
            f"{text!r} is not a range of bytes",
            remedy="Write it like 0-1024 (the first 1,024 bytes) or 4096-.",
        )
    start, stop = int(match[1]), None if match[2] is None else int(match[2])
    if stop is not None and stop < start:
        raise UsageError(f"the range {text!r} ends before it starts")
    return start, stop


def parse_code(k: int | None, n: int | None) -> tuple[int, int] | None:
    """Both or neither of k and n, 1 ≤ k ≤ n ≤ 255. Raises UsageError."""
    if k is None and n is None:
        return None
    if k is None or n is None:
        raise UsageError("--k and --n go together", remedy="For example --k 4 --n 12.")
    if not 1 <= k <= n <= 255:
        raise UsageError(
            f"{k}-of-{n} is no code", remedy="1 ≤ k ≤ n ≤ 255, for example --k 4 --n 12."
        )
    return k, n


def format_size(size: int) -> str:
    """1234567 → `1.2 MB`; exact below a kilobyte."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} EB"


def format_duration(seconds: float) -> str:
    """The two largest units: `3d 4h`, `12min 5s`, `8s`."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit in ("y", "d", "h", "min", "s"):
        count, left = divmod(left, _DURATION_UNITS[unit])
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def format_count(count: int, noun: str) -> str:
    """`1 file`, `20,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_age(then: float, now: float) -> str:
    """`3d 4h ago`, or `in 2h` for a clock that runs ahead."""
    return (
        f"{format_duration(now - then)} ago" if now >= then else f"in {format_duration(then - now)}"
    )


def format_date(seconds: float) -> str:
    """Seconds since 1970 → `2030-01-31 12:00 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_address(address: Address) -> str:
    """The form that `parse_address` reads."""
    return (
        f"[{address.host}]:{address.port}"
        if ":" in address.host
        else f"{address.host}:{address.port}"
    )
