"""The data verbs over a network: what the commands call, and what a program may call.

    async with connect(env, home, network) as context:
        report = await put(context, ["folder"], PutOptions(name="recordings"))
        archive = await open_dataset(context, capability)

Every function takes a `Context`; reports are frozen and say what was measured, not what was hoped.
"""

from __future__ import annotations

from potsherd.datasets.context import Context, connect
from potsherd.datasets.repairing import RepairReport, repair
from potsherd.datasets.retrieving import (
    Listed,
    StatReport,
    VerifyReport,
    cat,
    get,
    ls,
    ls_many,
    open_dataset,
    recover,
    stat,
    verify,
)
from potsherd.datasets.storing import PutOptions, PutReport, choose_code, put

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
