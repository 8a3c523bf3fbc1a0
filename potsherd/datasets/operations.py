"""The data verbs over a network: what the commands call, and what a program may call.

    async with connect(env, home, network) as context:
        report = await put(context, ["folder"], PutOptions(name="recordings"))
        archive = await open_dataset(context, capability)

Every function takes a `Context`; reports are frozen and say what was measured, not what was hoped.
"""

from __future__ import annotations

from potsherd.datasets.context import Context, connect
from potsherd.datasets.retrieving import (
    Listed,
    StatReport,
    cat,
    examine_dataset,
    ls,
    open_dataset,
    recover,
    stat,
)
from potsherd.datasets.storing import PutOptions, PutReport, choose_code, put

__all__ = [
    "Context",
    "Listed",
    "PutOptions",
    "PutReport",
    "StatReport",
    "cat",
    "choose_code",
    "connect",
    "examine_dataset",
    "ls",
    "open_dataset",
    "put",
    "recover",
    "stat",
]
