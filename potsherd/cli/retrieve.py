"""`ls`, `stat`, `verify`, `get` and `cat`."""

from __future__ import annotations

import base64
import gc
import os
import stat as modes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, NetworkName, begin, run
from potsherd.cli.data import DatasetName, connected, network_of, resolved

if TYPE_CHECKING:
    from potsherd.cli.output import Output
    from potsherd.datasets.get import GetResult, VerifyResult
    from potsherd.datasets.health import Health
    from potsherd.datasets.library import Resolved
    from potsherd.datasets.operations import Listed, StatReport, VerifyReport
    from potsherd.node.retention import Verdict

__all__ = ["cat", "get", "health_lines", "ls", "raise_for", "segment_rows", "stat", "verify"]

SHOWN_MAX = 20
"""Segments and damaged files that text names one by one; JSON has all."""


# --- ls ------------------------------------------------------------------------------------------


def ls(
    name: DatasetName,
    path: Annotated[str, typer.Argument(help="Folder or file inside the dataset.")] = "",
    long: Annotated[bool, typer.Option("-l", "--long", help="With mode, size and time.")] = False,
    recursive: Annotated[
        bool, typer.Option("-R", "--recursive", help="Folders below too.")
    ] = False,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """What is in a dataset, or in one of its folders."""
    command = begin(as_json, network=network)
    found = resolved(command, name)
    run(_ls(command, found, network, os.fsencode(path), long=long, recursive=recursive))


async def _ls(
    command: Command, found: Resolved, flag: str | None, path: bytes, *, long: bool, recursive: bool
) -> None:
    from potsherd.datasets import operations

    top = b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
    async with connected(command, network_of(command, found, flag)) as context:
        with _little_garbage():
            async for listed in operations.ls_many(
                context, found.capability, path, recurse=recursive
            ):
                # the folder that was named is left out: its content is asked for
                entries = [e for e in listed if e.path != top or e.kind != "folder"]
                if command.output.as_json:
                    command.output.objects("entry", map(_entry_fields, entries))
                else:
                    command.output.lines(_entry_texts(entries, long=long))


@contextmanager
def _little_garbage() -> Iterator[None]:
    """What is loaded by now is not gone through again and again while entries come and go: a tenth of the time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _entry_fields(entry: Listed) -> dict[str, Any]:
    return {
        "path": os.fsdecode(entry.path),
        "kind": entry.kind,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "mtime_ns": entry.mtime_ns,
        "target": os.fsdecode(entry.target) if entry.kind == "link" else None,
        "blake2b": entry.blake2b if entry.kind == "file" else None,
    }


def _entry_texts(entries: Iterable[Listed], *, long: bool) -> Iterator[str]:
    from potsherd.cli.output import printable
    from potsherd.cli.units import format_date

    for entry in entries:
        text = printable(entry.path) + ("/" if entry.kind == "folder" else "")
        if long:
            kind = {"folder": modes.S_IFDIR, "link": modes.S_IFLNK}.get(entry.kind, modes.S_IFREG)
            date = format_date(entry.mtime_ns // 10**9)
            target = f" -> {printable(entry.target)}" if entry.kind == "link" else ""
            mode = modes.filemode(kind | entry.mode)
            text = f"{mode}  {entry.size:>14,}  {date}  {text}{target}"
        yield text


# --- stat and verify -----------------------------------------------------------------------------


def stat(name: DatasetName, network: NetworkName = None, as_json: JsonFlag = False) -> None:
    """What a dataset is and how well it is kept, by a proof of every piece just now.

    Exit 6 when redundancy is below target, 5 when it cannot be read now.
    """
    command = begin(as_json, network=network)
    found = resolved(command, name)
    report = run(_stat(command, found, network))
    command.output.show("stat", _stat_text(report), **report.as_json())
    raise_for(report.health)


async def _stat(command: Command, found: Resolved, flag: str | None) -> StatReport:
    from potsherd.datasets import operations

    async with connected(command, network_of(command, found, flag)) as context:
        return await operations.stat(context, found.capability)


def _stat_text(report: StatReport) -> str:
    from potsherd.cli.output import printable
    from potsherd.cli.units import format_count, format_date, format_size

    info, totals = report.info, report.info.totals
    return "\n".join(
        (
            f"title     {printable(info.title)}",
            f"created   {format_date(info.created)}",
            f"content   {format_count(totals.files, 'file')}, {format_count(totals.folders, 'folder')}, "
            f"{format_size(totals.content_bytes)}; encrypted {format_size(report.stream_bytes)}",
            *health_lines(report.health),
            *_standing_lines(report),
            _audits_line(report),
            *_forecast_lines(report),
        )
    )


def _standing_lines(report: StatReport) -> list[str]:
    """Complete or not, over what it is spread, until when it is kept."""
    from potsherd.cli.output import printable
    from potsherd.cli.units import format_count

    standing, weakest = report.standing, report.health.weakest
    state = {
        "complete": f"complete: all {weakest.n} pieces of every segment",
        "acknowledged": "acknowledged, not complete",
        "short": "fewer pieces than a put is acknowledged with",
    }[standing.state]
    if standing.state != "complete" and not standing.attainable:
        state += f"; not attainable here: {weakest.n} pieces need {weakest.n} nodes, {standing.donors} are there"
    lines = [f"state     {state}"]
    for spread in standing.spread:
        fate = "survives losing it" if spread.survived else "CANNOT BE READ without it"
        lines.append(
            f"spread    {format_count(spread.places, spread.kind)}, at most "
            f"{format_count(spread.most, 'piece')} in one ({printable(spread.label)}): {fate}"
        )
    return [*lines, f"kept      {_keeping_text(standing.keeping)}"]


def _audits_line(report: StatReport) -> str:
    from potsherd.cli.units import format_count, format_duration

    audits = report.audits
    if not audits.pieces:
        return "audits    none yet that a holder remembers"
    ago = format_duration(report.health.proven_at - audits.oldest)
    where = (
        f" in {format_count(audits.segments, 'segment')}" if len(report.health.segments) > 1 else ""
    )
    return (
        f"audits    {audits.pieces} of {audits.of} pieces{where} read by other holders, as these say: "
        f"one random cell each, the longest ago {ago} ago"
    )


def _keeping_text(verdict: Verdict | None) -> str:
    from potsherd.cli.units import format_date
    from potsherd.node.retention import FOREVER

    if verdict is None:
        return "no holder knows of a lease yet: a put that is not finished?"
    if verdict.ends >= FOREVER:
        return "without end"
    gone = format_date(verdict.gone)
    if verdict.reason == "withdrawn":
        return f"withdrawn: nodes delete it from {gone} on"
    return f"until {format_date(verdict.ends)}; nodes delete it from {gone} on"


def _forecast_lines(report: StatReport) -> list[str]:
    """In words, never a bare probability."""
    if report.forecast is None:
        return []
    first, *rest = report.forecast.clauses()
    return [f"forecast  lost: {first};", *(f"          {clause}" for clause in rest)]


def health_lines(health: Health) -> list[str]:
    """In words: what was proven, how, and how much more may go."""
    from potsherd.cli.units import format_count, format_duration

    weakest = health.weakest
    how = "every cell" if health.deep else "one random cell each"
    lines = [
        f"code      {weakest.k}-of-{weakest.n}; repair starts below {weakest.r}",
        f"proven    {weakest.live} of {weakest.n} pieces just now ({how})"
        + (f", in the weakest of {len(health.segments)} segments" if health.segments[1:] else ""),
        f"sampled   {health.cells_proven} of {format_count(health.cells, 'cell')}",
        f"survives  {format_count(max(0, weakest.survives), 'more node')} gone",
    ]
    missing = [
        f"{weakest.count(state)} {state}"
        for state in ("away", "gone", "wrong")
        if weakest.count(state)
    ]
    if missing:
        lines.append(f"missing   {', '.join(missing)}")
    troubled = [(g, s) for g in health.segments for s in g.shards if not (s.live or g.replaced(s))]
    lines += [
        f"  piece {shard.index} of {segment.segment_id.hex()[:16]} on {shard.key.hex()[:16]}: {shard.trouble}"
        + (
            f" (seen {format_duration(shard.seen_ago_s)} ago)"
            if shard.seen_ago_s is not None
            else ""
        )
        for segment, shard in troubled[:SHOWN_MAX]
    ]
    if len(troubled) > SHOWN_MAX:
        lines.append(f"  and {len(troubled) - SHOWN_MAX} more")
    replaced = {s.key for g in health.segments for s in g.shards if g.replaced(s)}
    if replaced:
        nodes = format_count(len(replaced), "node")
        lines.append(f"replaced  {nodes} that kept pieces before and do not answer")
    return lines


def raise_for(health: Health) -> None:
    """Exit codes 5 and 6. Raises NotEnoughShards, BelowTarget."""
    from potsherd.errors import BelowTarget, NotEnoughShards

    weakest = health.weakest
    if not health.readable:
        raise NotEnoughShards(
            f"{weakest.live} of {weakest.n} pieces answer, {weakest.k} are needed",
            remedy="Nodes that are away may come back: try again later.",
        )
    if not health.on_target:
        raise BelowTarget(
            f"{weakest.live} of {weakest.n} pieces are live, repair is due below {weakest.r}"
        )


def verify(
    name: DatasetName,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Every cell of every piece, and the place of every file."),
    ] = False,
    contents: Annotated[
        bool,
        typer.Option("--contents", help="Read every file too and compare it with its hashes."),
    ] = False,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Prove that the pieces are there, a random cell of each; with --deep every cell.

    Exit 6 when redundancy is below target, 5 when something cannot be read.
    """
    command = begin(as_json, network=network)
    found = resolved(command, name)
    report = run(_verify(command, found, network, deep=deep, contents=contents))
    health, content = report.health, report.contents
    fields: dict[str, Any] = {
        "deep": deep,
        "proven_at": health.proven_at,
        "cells": health.cells,
        "cells_proven": health.cells_proven,
        "on_target": health.on_target,
        "segments": segment_rows(health),
    }
    lines = health_lines(health)
    if content is not None:
        fields |= {
            "files": content.files,
            "content_bytes": content.content_bytes,
            "failures": [_failure(f) for f in content.failures],
        }
        how = "read and right" if contents else "whole in these segments"
        lines.append(f"content   {content.files} files {how}, {len(content.failures)} not")
    command.output.show("verify", "\n".join(lines), **fields)
    _notes(command.output, content)
    raise_for(health)
    if content is not None and content.failures:
        raise content.failures[0].error


def segment_rows(health: Health) -> list[dict[str, Any]]:
    """What JSON says of each segment and its pieces."""
    return [
        {
            "segment": segment.segment_id,
            "k": segment.k,
            "n": segment.n,
            "r": segment.r,
            "live": segment.live,
            "away": segment.count("away"),
            "gone": segment.count("gone"),
            "wrong": segment.count("wrong"),
            "survives": segment.survives,
            "pieces": [shard.facts() for shard in segment.shards],
        }
        for segment in health.segments
    ]


def _failure(failure: Any) -> dict[str, str]:
    return {"path": os.fsdecode(failure.node.path), "error": str(failure.error)}


def _notes(output: Output, content: VerifyResult | None) -> None:
    from potsherd.cli.output import printable

    for failure in content.failures[:SHOWN_MAX] if content else ():
        output.note(f"{printable(failure.node.path)}: {failure.error}")


async def _verify(
    command: Command, found: Resolved, flag: str | None, *, deep: bool, contents: bool
) -> VerifyReport:
    from potsherd.datasets import operations

    with command.output.progress("verify") as progress:
        async with connected(command, network_of(command, found, flag), progress) as context:
            return await operations.verify(context, found.capability, deep=deep, contents=contents)


# --- get and cat ---------------------------------------------------------------------------------


def get(
    name: DatasetName,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write into.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH...]", help="Only these files and folders of the dataset."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in the way; leave the rest alone.")
    ] = False,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Read a dataset back. Goes on where an earlier try stopped; never overwrites silently."""
    from potsherd.cli.units import format_count, format_size

    command = begin(as_json, network=network)
    found = resolved(command, name)
    wanted = [os.fsencode(path) for path in paths or []]
    result = run(_get(command, found, network, destination, wanted, overwrite=overwrite))
    kept = f", {result.kept} were there already" if result.kept else ""
    command.output.show(
        "get",
        f"{format_count(result.files, 'file')}, {format_size(result.content_bytes)} in {destination}{kept}",
        destination=destination,
        files=result.files,
        kept=result.kept,
        folders=result.folders,
        symlinks=result.symlinks,
        content_bytes=result.content_bytes,
    )


async def _get(
    command: Command,
    found: Resolved,
    flag: str | None,
    destination: Path,
    paths: list[bytes],
    *,
    overwrite: bool,
) -> GetResult:
    from potsherd.datasets import operations

    with command.output.progress("get") as progress:
        async with connected(command, network_of(command, found, flag), progress) as context:
            return await operations.get(
                context, found.capability, destination, paths, overwrite=overwrite
            )


def cat(
    name: DatasetName,
    path: Annotated[str, typer.Argument(help="The file inside the dataset.")],
    range_: Annotated[
        str,
        typer.Option(
            "--range", metavar="A-B", help="Bytes A to before B, counted from 0; A- is to the end."
        ),
    ] = "0-",
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a file, or a range of it, to standard output; only what is needed is read."""
    from potsherd.cli.units import parse_range

    start, stop = parse_range(range_)
    command = begin(as_json, network=network)
    found = resolved(command, name)
    run(_cat(command, found, network, os.fsencode(path), start, stop))


async def _cat(
    command: Command, found: Resolved, flag: str | None, path: bytes, start: int, stop: int | None
) -> None:
    from potsherd.datasets import operations

    offset = start
    async with connected(command, network_of(command, found, flag)) as context:
        async for piece in operations.cat(context, found.capability, path, start, stop):
            if command.output.as_json:
                text = base64.b64encode(piece).decode()
                command.output.show("data", None, offset=offset, base64=text)
            else:
                sys.stdout.buffer.write(piece)
            offset += len(piece)
    sys.stdout.buffer.flush()
