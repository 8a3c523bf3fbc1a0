"""The data verbs over a network: what the commands call, and what a program may call.

    async with connect(env, home, network) as context:
        report = await put(context, ["folder"], PutOptions(name="recordings"))
        archive = await open_dataset(context, capability)

Every function takes a `Context`; reports are frozen and say what was measured, not what was hoped.
What a name needs is imported when it is first asked for: a command needs one verb, and starts sooner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potsherd.datasets.context import Context, connect
    from potsherd.datasets.recovering import recover
    from potsherd.datasets.repairing import RepairReport, repair
    from potsherd.datasets.retrieving import Listed, cat, get, ls, ls_many, open_dataset
    from potsherd.datasets.stating import StatReport, stat
    from potsherd.datasets.storing import PutOptions, PutReport, choose_code, put
    from potsherd.datasets.verifying import VerifyReport, verify

__all__ = [
    "Context",
    "Listed",
    "PutOptions",
    "PutReport",
    "RepairReport",
    "StatReport",
    "VerifyReport",
    "cat",
    "choose_code",
    "connect",
    "get",
    "ls",
    "ls_many",
    "open_dataset",
    "put",
    "recover",
    "repair",
    "stat",
    "verify",
]

_MODULES = {
    "context": ("Context", "connect"),
    "recovering": ("recover",),
    "repairing": ("RepairReport", "repair"),
    "retrieving": ("Listed", "cat", "get", "ls", "ls_many", "open_dataset"),
    "stating": ("StatReport", "stat"),
    "storing": ("PutOptions", "PutReport", "choose_code", "put"),
    "verifying": ("VerifyReport", "verify"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
"""Modules of this package by name."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"potsherd.datasets.{_WHERE[name]}")
    found = globals()[name] = getattr(module, name)
    return found
