"""Configuration: flag > environment > file > default, and for each value where it came from.

Two files, `config.toml` in the person home and in the node home (docs/configuration.md); a setting belongs to one
of them.  The environment's name of a setting is `POTSHERD_` and the key in capitals: `node.quota` is
`POTSHERD_NODE_QUOTA`.  A key that does not exist is an error wherever it is written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from potsherd.classes import dataclass
from potsherd.cli import units
from potsherd.errors import UsageError

__all__ = [
    "ENVIRONMENT_OTHER",
    "SETTINGS",
    "Config",
    "Setting",
    "Value",
    "parse_setting",
    "read_file",
    "template",
    "unknown_variables",
    "with_setting",
]

FILE_BYTES_MAX = 64 * 1024
"""Bytes of a configuration file; a longer one is refused unread."""
ENVIRONMENT_OTHER = frozenset(
    {"POTSHERD_HOME", "POTSHERD_DEBUG", "POTSHERD_CHECKOUT", "POTSHERD_KERNEL_CACHE"}
)
"""Variables with our prefix that are no settings."""
RATE_MIN = 65_536
"""Bytes a second of a rate, at least: with less no repair would ever come to its end."""
TIMERS = ("normal", "fast")
"""Names of `potsherd.node.pace`, which is not imported for every command."""


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.isprintable():
        raise UsageError(f"{raw!r} is not a text")
    return raw


def _size(raw: Any) -> int:
    return units.parse_size(str(raw) if isinstance(raw, int) else _text(raw))


def _code_number(raw: Any) -> int:
    text = str(raw)
    if (
        isinstance(raw, bool)
        or not text.isascii()
        or not text.isdigit()
        or not 1 <= int(text) <= 255
    ):
        raise UsageError(f"{raw!r} is not a number from 1 to 255")
    return int(text)


def _rate(raw: Any) -> int:
    found = _size(raw)
    if found < RATE_MIN:
        raise UsageError(f"{raw!r} is less than {RATE_MIN} bytes a second")
    return found


def _share(raw: Any) -> str:
    """Whole percent, as text: `40%`."""
    text = str(raw)
    number = text.removesuffix("%")
    if (
        number == text
        or not number.isascii()
        or not number.isdigit()
        or not 1 <= int(number) <= 100
    ):
        raise UsageError(f"{raw!r} is not a share from 1% to 100%")
    return f"{int(number)}%"


def _chance(raw: Any) -> str:
    """Percent below 100, as text: `99.9%`; `0%` for none."""
    text = str(raw)
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,6})?%", text, re.ASCII):
        raise UsageError(f"{raw!r} is not a chance from 0% to 99.999999%")
    return text


def _timers(raw: Any) -> str:
    found = _text(raw)
    if found not in TIMERS:
        raise UsageError(f"{found!r} is none of: {', '.join(TIMERS)}")
    return found


def _address(raw: Any) -> str:
    return units.format_address(units.parse_address(_text(raw)))


@dataclass(frozen=True)
class Setting:
    """One key: where it may stand, how it is read, what it means."""

    key: str
    home: str
    """`person` or `node`: whose config.toml it belongs to."""
    parse: Callable[[Any], Any]
    default: Any
    example: str
    """As it is written in TOML."""
    help: str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "POTSHERD_" + self.key.upper().replace(".", "_")


SETTINGS: tuple[Setting, ...] = (
    Setting("network", "person", _text, None, '"mylab"', "Which network data verbs use, by name."),
    Setting(
        "put.k",
        "person",
        _code_number,
        None,
        "4",
        "Pieces that suffice to read; unless set, by network size.",
    ),
    Setting(
        "put.n",
        "person",
        _code_number,
        None,
        "12",
        "Pieces that are stored; unless set, by network size.",
    ),
    Setting(
        "node.quota", "node", _size, 10 * 10**9, '"50GB"', "Disk that is given, everything counted."
    ),
    Setting(
        "node.listen",
        "node",
        _address,
        "127.0.0.1:4800",
        '"127.0.0.1:4800"',
        "Address and port, UDP and TCP.",
    ),
    Setting(
        "node.advertise",
        "node",
        _address,
        None,
        '"192.0.2.7:4800"',
        "Address that others are told, if another.",
    ),
    Setting(
        "node.site",
        "node",
        _text,
        "",
        '"building 7"',
        "Where the machine stands; pieces are spread over sites.",
    ),
    Setting(
        "node.repair_rate",
        "node",
        _rate,
        4 * 2**20,
        '"4MiB"',
        "What repairs by this node may move in a second, in and out together.",
    ),
    Setting(
        "node.member_share",
        "node",
        _share,
        "100%",
        '"40%"',
        "Share of the quota that the data of one member may take.",
    ),
    Setting(
        "node.readable",
        "node",
        _chance,
        "0%",
        '"99%"',
        "Repair begins too when a segment can be read at any moment with less than this chance.",
    ),
    Setting(
        "node.timers",
        "node",
        _timers,
        "normal",
        '"normal"',
        "normal, or fast: for labs only, gives a silent node up after 20 seconds.",
    ),
)
_BY_KEY = {setting.key: setting for setting in SETTINGS}


def parse_setting(key: str, raw: Any) -> Any:
    """A value as that setting reads it. Raises UsageError for one that it does not take."""
    return _BY_KEY[key].parse(raw)


@dataclass(frozen=True)
class Value:
    """A setting's value and where it came from: `flag`, `environment NAME`, `file PATH` or `default`."""

    setting: Setting
    value: Any
    source: str


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, raw in table.items():
        if isinstance(raw, dict):
            yield from _flat(raw, f"{prefix}{key}.")
        else:
            yield prefix + key, raw


def _unknown(key: str, where: str, home: str, known: list[str]) -> UsageError:
    if key in _BY_KEY:
        return UsageError(
            f"{where}: {key} does not belong here",
            remedy=f"It belongs into the config.toml of the {_BY_KEY[key].home} home, not the {home} home.",
        )
    near = difflib.get_close_matches(key, known, n=1)
    return UsageError(
        f"{where}: there is no setting {key!r}",
        remedy=f"Do you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}.",
    )


def read_file(path: Path, home: str) -> dict[str, Any]:
    """Raw values by key; a missing file has none. Raises UsageError for what is no configuration."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{path}: longer than {FILE_BYTES_MAX} bytes")
    import tomllib  # most commands find no file

    try:
        table = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    values = dict(_flat(table))
    known = [setting.key for setting in SETTINGS if setting.home == home]
    for key in values:
        if key not in known:
            raise _unknown(key, str(path), home, known)
    return values


class Config:
    """All settings of one call, resolved."""

    def __init__(
        self,
        files: Mapping[str, Path],
        environment: Mapping[str, str],
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        """`files` by home; `flags` are the parsed values of options that were given (None: not given)."""
        self.files = dict(files)
        raw = {home: read_file(path, home) for home, path in self.files.items()}
        flags = flags or {}
        self._values = {
            s.key: self._resolve(s, raw.get(s.home, {}), environment, flags) for s in SETTINGS
        }

    def _resolve(
        self,
        setting: Setting,
        raw: Mapping[str, Any],
        environment: Mapping[str, str],
        flags: Mapping[str, Any],
    ) -> Value:
        if flags.get(setting.key) is not None:
            return self._parsed(setting, flags[setting.key], "flag")
        if environment.get(setting.variable, ""):
            return self._parsed(
                setting, environment[setting.variable], f"environment {setting.variable}"
            )
        if setting.key in raw:
            return self._parsed(setting, raw[setting.key], f"file {self.files[setting.home]}")
        return Value(setting, setting.default, "default")

    @staticmethod
    def _parsed(setting: Setting, raw: Any, source: str) -> Value:
        try:
            return Value(setting, setting.parse(raw), source)
        except UsageError as error:
            raise UsageError(
                f"{setting.key} ({source}): {error.message}", remedy=error.remedy
            ) from None

    def __getitem__(self, key: str) -> Any:
        return self._values[key].value

    def values(self) -> list[Value]:
        """Every setting, in the order of the documentation."""
        return list(self._values.values())


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none; `doctor` shows them."""
    known = {setting.variable for setting in SETTINGS} | ENVIRONMENT_OTHER
    return sorted(
        name for name in environment if name.startswith("POTSHERD_") and name not in known
    )


def with_setting(text: str, key: str, value: str) -> str:
    """The text of a config.toml with `table.name` set to a string; everything else stays as it is.

    Raises UsageError when the file does not let itself be changed like that.
    """
    table, _, name = key.rpartition(".")
    lines, section, place, found = text.splitlines(), "", None, None
    for number, line in enumerate(lines):
        header = re.fullmatch(r"\s*\[([\w.]+)\]\s*(#.*)?", line)
        if header:
            section = header[1]
        if section == table and (header or re.match(rf"\s*#?\s*{name}\s*=", line)):
            place = number
        if section == table and re.match(rf"\s*{name}\s*=", line):
            found = number
    new = f'{name} = "{value}"'
    if found is not None:
        lines[found] = new
    elif place is not None:
        lines.insert(place + 1, new)
    else:
        lines += ["", f"[{table}]", new]
    changed = "\n".join(lines) + "\n"
    _check_only(text, changed, table, name, value)
    return changed


def _check_only(before: str, after: str, table: str, name: str, value: str) -> None:
    import tomllib

    try:
        wanted: dict[str, Any] = tomllib.loads(before)
        wanted.setdefault(table, {})[name] = value
        if tomllib.loads(after) == wanted:
            return
    except (tomllib.TOMLDecodeError, AttributeError, TypeError):
        pass
    raise UsageError(f"config.toml cannot be changed: set {table}.{name} there yourself")


def template(home: str) -> str:
    """A config.toml with every setting of `home` as a comment."""
    lines = [
        "# potsherd configuration; docs/configuration.md. Flags and POTSHERD_… variables go before."
    ]
    section = ""
    for setting in SETTINGS:
        if setting.home != home:
            continue
        table, _, name = setting.key.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        lines += [f"# {setting.help}", f"# {name} = {setting.example}"]
    return "\n".join(lines) + "\n"
