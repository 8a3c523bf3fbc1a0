"""What storage costs: the file that ships with the package, or the user's own of the same form."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from potsherd.classes import dataclass
from potsherd.errors import UsageError

__all__ = ["Prices", "Store", "load_prices"]

FILE = "prices.toml"
STORES_MAX = 20
TB = 1e12
NAME_MAX = 80


@dataclass(frozen=True)
class Store:
    """Object storage to compare with."""

    name: str
    storage_per_tb_month: float
    read_per_tb: float

    def per_year(self, data_bytes: float) -> float:
        """To keep so much, nothing read."""
        return data_bytes / TB * self.storage_per_tb_month * 12


@dataclass(frozen=True)
class Prices:
    """All in one currency."""

    currency: str
    disk_per_tb_year: float
    traffic_per_tb: float
    stores: tuple[Store, ...]

    def donated_per_year(self, stored_bytes: float, moved_bytes: float) -> float:
        """What donors' disks and lines would cost."""
        return stored_bytes / TB * self.disk_per_tb_year + moved_bytes / TB * self.traffic_per_tb


def load_prices(path: Path | None = None) -> Prices:
    """Raises UsageError that names the field."""
    where = str(path or FILE)
    try:
        text = path.read_text("utf-8") if path else _shipped()
        given = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"prices = {where}: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"prices = {where}: not a TOML file ({error})") from None
    _known(where, "", given, ("currency", "donors", "stores"))
    donors, stores = given.get("donors"), given.get("stores", [])
    if not isinstance(donors, dict):
        raise UsageError(f"{where}: donors: missing")
    _known(where, "donors.", donors, ("disk_per_tb_year", "traffic_per_tb"))
    if not isinstance(stores, list) or len(stores) > STORES_MAX:
        raise UsageError(f"{where}: stores: not a list of up to {STORES_MAX}")
    return Prices(
        currency=_text(where, given, "currency"),
        disk_per_tb_year=_price(where, "donors.", donors, "disk_per_tb_year"),
        traffic_per_tb=_price(where, "donors.", donors, "traffic_per_tb"),
        stores=tuple(_store(where, i, store) for i, store in enumerate(stores)),
    )


def _shipped() -> str:
    return resources.files("potsherd.simulations.planner").joinpath(FILE).read_text("utf-8")


def _store(where: str, number: int, given: object) -> Store:
    field = f"stores[{number}]."
    if not isinstance(given, dict):
        raise UsageError(f"{where}: {field[:-1]}: not a table")
    _known(where, field, given, ("name", "storage_per_tb_month", "read_per_tb"))
    return Store(
        name=_text(where, given, "name"),
        storage_per_tb_month=_price(where, field, given, "storage_per_tb_month"),
        read_per_tb=_price(where, field, given, "read_per_tb"),
    )


def _known(where: str, field: str, given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in given:
        if name not in names:
            raise UsageError(f"{where}: {field}{name}: unknown; known are {', '.join(names)}")


def _text(where: str, given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX:
        raise UsageError(f"{where}: {name} = {value!r}: not a text of 1 to {NAME_MAX} characters")
    return value


def _price(where: str, field: str, given: Mapping[str, Any], name: str) -> float:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where}: {field}{name} = {value!r}: not a number")
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{where}: {field}{name} = {value!r}: not 0 or more")
    return float(value)
