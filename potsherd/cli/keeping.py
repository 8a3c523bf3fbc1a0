"""`renew` and `withdraw`: for how long a dataset is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from potsherd.cli.context import Command, JsonFlag, NetworkName, begin, now, run
from potsherd.cli.data import DatasetName, connected, network_of, resolved

if TYPE_CHECKING:
    from potsherd.datasets.keeping import RenewReport, WithdrawReport
    from potsherd.datasets.library import Dataset, Resolved

__all__ = ["renew", "withdraw"]


def renew(
    name: DatasetName,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="From now on: 5y, 90d, a day like 2050-12-31, or forever; else as long as last time.",
        ),
    ] = None,
    keeper: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Who may lengthen it, instead of those named before."),
    ] = None,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a dataset kept for longer (or shorter): its owner at will, a keeper only for longer."""
    from potsherd.cli.units import format_date, parse_key

    command = begin(as_json, network=network)
    found = resolved(command, name)
    until, keep_s = _wish(command, found, keep)
    keepers = None if keeper is None else [parse_key(text) for text in keeper]
    report = run(_renew(command, found, network, until, keep_s, keepers))
    text = f"kept until {format_date(report.until)}" if report.until else "kept without end"
    if report.told < report.holders:
        text += (
            f"; {report.told} of {report.holders} nodes know it now, the others learn it from them"
        )
    command.output.show("renew", text, **vars(report))


def _wish(command: Command, found: Resolved, keep: str | None) -> tuple[int, int]:
    """(date or 0, seconds from now or 0) that was asked for, now or last time."""
    from potsherd.cli.units import parse_keep
    from potsherd.datasets.library import Library
    from potsherd.errors import UsageError

    if keep is not None:
        return parse_keep(keep, now())
    if found.dataset is not None:
        with Library(command.home.library_path) as library:
            known = library.keeping(found.dataset.number, found.dataset.newest.archive)
        if known is not None and known.keep_s:
            return int(now()) + known.keep_s, known.keep_s
        if known is not None and not known.until:
            return 0, 0
    raise UsageError("for how long?", remedy="Say it: --keep 5y, --keep 2050-12-31, --keep forever")


async def _renew(
    command: Command,
    found: Resolved,
    flag: str | None,
    until: int,
    keep_s: int,
    keepers: list[bytes] | None,
) -> RenewReport:
    from potsherd.datasets import keeping, operations
    from potsherd.errors import RefusedError

    with command.output.progress("renew") as progress:
        async with connected(command, network_of(command, found, flag), progress) as context:
            if found.dataset is not None:
                return await keeping.renew(
                    context, found.dataset, until, keep_s=keep_s, keepers=keepers
                )
            if keepers is not None:
                raise RefusedError("only the owner of a dataset names its keepers")
            archive = await operations.open_dataset(context, found.capability)
            return await keeping.extend(context, archive.manifest.segments, until)


def withdraw(
    name: DatasetName,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Take a withdrawal back, before its grace is over.")
    ] = False,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a dataset out of the network. Nodes delete it after its grace, 30 days unless said otherwise.

    Deletion from other people's disks cannot be enforced: what was shared may have been copied.
    """
    from potsherd.cli.units import format_date
    from potsherd.errors import RefusedError

    command = begin(as_json, network=network)
    found = resolved(command, name)
    if found.dataset is None:
        raise RefusedError("only the owner of a dataset withdraws it", remedy="See: potsherd list")
    report = run(_withdraw(command, found, found.dataset, network, cancel=cancel))
    text = "kept after all"
    if not report.cancelled:
        text = (
            f"withdrawn: nodes delete it from {format_date(report.gone)} on; until then: "
            "potsherd withdraw NAME --cancel"
        )
    if report.told < report.holders:
        text += (
            f"; {report.told} of {report.holders} nodes know it now, the others learn it from them"
        )
    command.output.show("withdraw", text, **vars(report))


async def _withdraw(
    command: Command, found: Resolved, dataset: Dataset, flag: str | None, *, cancel: bool
) -> WithdrawReport:
    from potsherd.datasets import keeping

    with command.output.progress("withdraw") as progress:
        async with connected(command, network_of(command, found, flag), progress) as context:
            return await keeping.withdraw(context, dataset, cancel=cancel)
