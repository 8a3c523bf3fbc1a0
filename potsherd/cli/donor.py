"""`node quota | pause | resume | leave | stop`: what a donor asks of the running node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, begin, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from potsherd.cli.output import Progress

__all__ = ["leave", "pause", "progress_text", "quota", "resume", "stop"]

POLL_S = 0.5
STUCK_S = 20.0
"""Seconds without progress after which a command does not wait any longer for what nobody takes."""
STOP_TIMEOUT_S = 30.0

WaitFlag = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


def progress_text(state: dict[str, Any]) -> str:
    """How far shrinking or leaving is, in one line."""
    from potsherd.cli.units import format_duration, format_size

    text = str(state["mode"])
    if state["quota"]:
        text += f" to {format_size(state['quota'])}"
    if state["mode"] in ("shrinking", "leaving"):
        text += f": {state['moved']} pieces moved, about {format_size(state['left_bytes'])} left"
        if state["estimate_s"]:
            text += f", about {format_duration(state['estimate_s'])} more"
    if state["stuck"]:
        text += f"; {state['stuck']} that no other node takes now: {state['reason']}"
    if state["safe"]:
        text += ": nothing is kept here any more, safe to unplug"
    return text


def quota(
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Disk to give, everything counted.")],
    wait: WaitFlag = True,
    as_json: JsonFlag = False,
) -> None:
    """Change how much disk the node gives. Less than is in use: pieces are moved to other nodes first."""
    from potsherd.cli.units import format_size, parse_size
    from potsherd.service.local import call, running

    wanted = parse_size(size)
    command = begin(as_json)
    folder = command.node_home.folder
    state: dict[str, Any] = {"mode": "", "stuck": 0, "quota_now": None, "used": None}
    if running(folder) is not None:
        state = run(call(folder, "quota", bytes=wanted))
    _write(command, size)
    if state["mode"] == "shrinking" and wait:
        state = run(_watch(command, "shrink", lambda s: s["mode"] != "shrinking"))
    done = state["mode"] != "shrinking"
    text = f"done: the quota is {format_size(wanted)}" if done else progress_text(state)
    if state["quota_now"] is None:
        text = f"the quota will be {format_size(wanted)} when the node starts"
    command.output.show("node_quota", text, wanted=wanted, done=done, **state)
    if wait:
        _raise_if_stuck(state, done=done)


def _write(command: Command, size: str) -> None:
    """Keep the quota for the next start, where a flag or the environment does not say otherwise."""
    from potsherd.cli.config import template, with_setting
    from potsherd.datasets.small_files import private_folder, write_private

    path = private_folder(command.node_home.folder) / "config.toml"
    text = path.read_text() if path.exists() else template("node")
    write_private(path, with_setting(text, "node.quota", size.strip()).encode())
    for value in command.config.values():
        if value.setting.key == "node.quota" and value.source.startswith("environment"):
            command.output.note(f"{value.source} says otherwise and will win at the next start.")


def _raise_if_stuck(state: dict[str, Any], *, done: bool) -> None:
    from potsherd.errors import PartlyDone

    if not done:
        raise PartlyDone(
            f"no other node takes {state['stuck']} of the pieces at present: {state['reason']}",
            remedy="The node goes on trying: potsherd node status. To stay as it was: potsherd node resume",
        )


async def _watch(
    command: Command, title: str, is_done: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Wait until it is done, or stuck for STUCK_S; progress on a terminal."""
    import asyncio

    from potsherd.service.local import call

    folder, last, still = command.node_home.folder, -1, 0.0
    with command.output.progress(title) as progress:
        while True:
            state = await call(folder, "leaving")
            _show(progress, state)
            if is_done(state):
                return state
            still = 0.0 if state["moved_bytes"] != last or not state["stuck"] else still + POLL_S
            if still >= STUCK_S:
                return state
            last = state["moved_bytes"]
            await asyncio.sleep(POLL_S)


def _show(progress: Progress, state: dict[str, Any]) -> None:
    moved = state["moved_bytes"]
    progress(moved, moved + state["left_bytes"] or 1)


def pause(as_json: JsonFlag = False) -> None:
    """Take no new pieces until `node resume`; what is here is kept and served."""
    _ask(begin(as_json), "pause", "paused: no new pieces are taken")


def resume(as_json: JsonFlag = False) -> None:
    """Take pieces again; stop shrinking or leaving."""
    from potsherd.service.local import call

    command = begin(as_json)
    before = run(call(command.node_home.folder, "leaving"))
    _ask(command, "resume", "new pieces are taken again")
    if before["mode"] == "shrinking":
        _write(command, str(before["quota_now"]))  # the smaller one is not wanted any more


def _ask(command: Command, to: str, text: str) -> None:
    from potsherd.service.local import call

    state = run(call(command.node_home.folder, "intent", to=to))
    command.output.show(f"node_{to}", text, **state)


def leave(wait: WaitFlag = True, as_json: JsonFlag = False) -> None:
    """Move everything to other nodes, say when it is safe to unplug, and stop the node."""
    from potsherd.cli.units import format_count
    from potsherd.service.local import call

    command = begin(as_json)
    state = run(call(command.node_home.folder, "intent", to="leave"))
    if wait:
        try:
            state = run(_watch(command, "leave", lambda s: bool(s["safe"])))
        except KeyboardInterrupt:
            command.output.note(
                "The node goes on leaving: potsherd node status. To stay: potsherd node resume"
            )
            raise
    if state["safe"]:
        run(_stop(command))
    text = progress_text(state)
    if state["safe"]:
        text = (
            f"{format_count(state['moved'], 'piece')} moved; the node has stopped: safe to unplug"
        )
    command.output.show("node_leave", text, **state)
    if wait:
        _raise_if_stuck(state, done=bool(state["safe"]))


def stop(as_json: JsonFlag = False) -> None:
    """Stop the node in order; its disk stays as it is."""
    command = begin(as_json)
    run(_stop(command))
    command.output.show("node_stop", "the node has stopped")


async def _stop(command: Command) -> None:
    import asyncio

    from potsherd.errors import NotFoundError, PeerError
    from potsherd.service.local import call, running

    folder = command.node_home.folder
    node = running(folder)
    if node is None:
        raise NotFoundError("no node is running here", remedy="Start it with: potsherd node run")
    await call(folder, "stop")
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while node.process.alive():  # noqa: ASYNC110 (another process: nobody signals it)
                await asyncio.sleep(POLL_S / 5)
    except TimeoutError:
        raise PeerError(
            f"the node process {node.process.pid} does not end",
            remedy="It may be finishing something; SIGTERM twice makes it give up.",
        ) from None
