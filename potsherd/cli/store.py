"""`put` and `list`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, NetworkName, begin, now, run

if TYPE_CHECKING:
    from potsherd.cli.output import Output
    from potsherd.datasets.library import Dataset, Keeping, StoredSegment
    from potsherd.datasets.operations import PutOptions, PutReport

__all__ = ["list_", "put"]


def put(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders and files.")],
    name: Annotated[
        str | None, typer.Option(help="What to call it; otherwise as the first PATH is called.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, max=255, help="Pieces that suffice to read it.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, max=255, help="Pieces stored in all.")
    ] = None,
    r: Annotated[
        int | None,
        typer.Option("--r", min=1, max=255, help="Repair starts when fewer pieces are left."),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="Equal content becomes equal ciphertext, for everybody."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take.")
    ] = False,
    urn: Annotated[
        bool, typer.Option("--urn", help="Print the key link instead of the name. It is secret.")
    ] = False,
    keep: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="For how long: 5y, 90d, a day like 2050-12-31, or forever."
        ),
    ] = "forever",
    keeper: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Person key of somebody who may lengthen it; repeat."),
    ] = None,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Store files and folders as a dataset. The same call again goes on after an interruption."""
    from potsherd.cli.units import parse_code, parse_keep, parse_key
    from potsherd.datasets.operations import PutOptions

    command = begin(as_json, network=network, put__k=k, put__n=n)
    code = parse_code(command.config["put.k"], command.config["put.n"]) or (None, None)
    for path in paths:
        _check_exists(path)
    until, keep_s = parse_keep(keep, now())
    options = PutOptions(
        name=name,
        k=code[0],
        n=code[1],
        r=r,
        public=public,
        dry_run=dry_run,
        until=until,
        keep_s=keep_s,
        keepers=tuple(sorted({parse_key(text) for text in keeper or ()})),
    )
    report = run(_put(command, paths, options))
    if dry_run:
        command.output.show("plan", _plan_text(report), **_fields(report))
        _advise(command.output, report)
        return
    _notes(command.output, report)
    shown = {"urn": report.urn} if urn else {}
    command.output.show("put", report.urn if urn else report.name, **_fields(report), **shown)


def _check_exists(path: Path) -> None:
    from potsherd.errors import NotFoundError

    if not path.is_symlink() and not path.exists():
        raise NotFoundError(f"no file or folder {path}")


async def _put(command: Command, paths: list[Path], options: PutOptions) -> PutReport:
    from potsherd.cli.data import connected
    from potsherd.datasets import operations

    def plan(report: PutReport) -> None:
        if not command.output.as_json:
            command.output.note(_plan_text(report))
            _advise(command.output, report)

    network = command.network()
    with command.output.progress("put") as progress:
        async with connected(command, network, progress) as context:
            return await operations.put(context, paths, options, on_plan=plan)


def _fields(report: PutReport) -> dict[str, Any]:
    """The report without the key link, which is shown only when it is asked for."""
    fields = asdict(report)
    del fields["urn"]
    return {**fields, "complete": report.complete, "survives": report.survives}


def _plan_text(report: PutReport) -> str:
    from potsherd.cli.units import format_count, format_date, format_duration, format_size

    expansion = report.stored_bytes / max(1, report.content_bytes)
    took = f"about {format_duration(report.seconds)}" if report.seconds >= 1 else "under a second"
    return (
        f"{format_count(report.files, 'file')}, {format_size(report.content_bytes)}; {report.k}-of-{report.n} on "
        f"{report.n} of {report.donors} nodes\n"
        f"to send: at most {format_size(report.stored_bytes)} ({expansion:.2f} x), "
        f"{took}\n"
        f"survives: any {report.survives} of the {report.n} nodes gone\n"
        f"kept: {'until ' + format_date(report.until) if report.until else 'without end'}"
    )


def _advise(output: Output, report: PutReport) -> None:
    if report.advice is not None:
        output.note(f"advice: {report.advice.words()}")


def _notes(output: Output, report: PutReport) -> None:
    if not report.complete:
        output.note(
            f"placed {report.placed} of {report.n} pieces ({report.k} suffice to read, "
            f"{report.w} were needed): not enough nodes could take one"
        )
    for text in report.compromises:
        output.note(f"placement: {text}")
    if report.passed_over:
        output.note(f"left out, because they have no content: {', '.join(report.passed_over)}")


def list_(as_json: JsonFlag = False) -> None:
    """Your datasets, from the library on this machine; nothing is asked of the network."""
    from potsherd.datasets.library import Library

    command = begin(as_json)
    if not command.home.library_path.exists():
        return
    with Library(command.home.library_path) as library:
        rows = [_row(dataset, library, as_json) for dataset in library.datasets()]
    columns = ("name", "size", "files", "code", "placed", "date", "keep", "network")
    command.output.table("dataset", columns, rows)


def _row(dataset: Dataset, library: Any, as_json: bool) -> dict[str, Any]:
    from potsherd.cli.units import format_date, format_size

    base: dict[str, Any] = {
        "name": dataset.name,
        "number": dataset.number,
        "dataset_id": dataset.dataset_id,
        "network": dataset.network,
        "public": dataset.public,
        "stored": bool(dataset.archives),
    }
    if not dataset.archives:
        text = {"size": "", "files": "", "code": "", "placed": "unfinished", "keep": ""}
        return base | (text | {"date": format_date(dataset.created)} if not as_json else {})
    archive = dataset.newest
    segments: list[StoredSegment] = library.segments(dataset.number, archive.archive)
    facts: dict[str, Any] = {
        "files": archive.files,
        "k": archive.k,
        "n": archive.n,
        "placed": min((segment.placed for segment in segments), default=0),
        "size": archive.content_bytes,
        "stream_bytes": archive.stream_bytes,
        "segments": len(segments),
        "date": archive.date,
    }
    keeping = library.keeping(dataset.number, archive.archive)
    facts["keep"] = None if keeping is None else asdict(keeping)
    if not as_json:
        facts["keep"] = _keep_text(keeping)
        facts["size"] = format_size(archive.content_bytes)
        facts["code"] = f"{archive.k}-of-{archive.n}"
        facts["date"] = format_date(archive.date)
    return base | facts


def _keep_text(keeping: Keeping | None) -> str:
    from potsherd.cli.units import format_date

    if keeping is None:
        return "?"
    if keeping.gone:
        return f"withdrawn, goes {format_date(keeping.gone)[:10]}"
    return format_date(keeping.until)[:10] if keeping.until else "forever"
