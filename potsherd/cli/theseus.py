"""The ship of Theseus (`make theseus`): every node that a dataset was stored on is replaced, and it is still there.

Four times the five oldest nodes of twenty are killed and five new ones join.  Nobody repairs anything: the
nodes that are left notice, rebuild what the dead have kept, and bring it to others.  A wave takes five of nine
pieces at most, and any four suffice; repair starts at the first loss (`--r 9`), so that the next wave meets nine
again.  Everything lies in a temporary folder and is gone afterwards.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from potsherd.cli.demo import Terminal, differences, make_dataset, play, say

__all__ = ["Voyage", "sail"]

NODES, WAVE, WAVES = 20, 5, 4
CODE = ("--k", "4", "--n", "9", "--r", "9")
HEALED_WITHIN_S = 300.0
"""Seconds from the killing until `verify` must be content again."""
LOOK_S = 3.0
"""Seconds between two looks at the pieces."""
NAME = "recordings"


class Voyage:
    """One lab and one dataset in it, under `folder`."""

    def __init__(self, folder: Path, *, nodes: int = NODES, wave: int = WAVE) -> None:
        self.folder = folder
        self.terminal = Terminal(folder)
        self._nodes, self._wave = nodes, wave
        self.crew: set[str] = set()
        """Keys of the nodes with which it began."""

    def sail(self, waves: int, code: tuple[str, ...]) -> bool:
        """The whole story; whether no node of the first ones runs and the data came back whole."""
        make_dataset(self.folder / NAME)
        with self.terminal.lab(self._nodes, "--fast"):
            self.crew = self._alive()
            self.terminal.potsherd("put", NAME, *code)
            say()
            for wave in range(1, waves + 1):
                say(f"--- wave {wave}: {self._wave} nodes are killed, {self._wave} new ones join\n")
                self.terminal.potsherd("lab", "kill", "--oldest", str(self._wave))
                self.terminal.potsherd("lab", "add", str(self._wave))
                self._wait_healed()
            return self._arrive()

    def _alive(self) -> set[str]:
        _, rows = self.terminal.look("lab", "status")
        return {row["key"] for row in rows if row["state"] == "up"}

    def _wait_healed(self) -> None:
        """Look until `verify` is content again, then have it speak for itself."""
        say("Nobody does anything now: the nodes look after the pieces by themselves.")
        asyncio.run(self._look_on())
        say()
        self.terminal.potsherd("verify", NAME)

    async def _look_on(self) -> None:
        """Shows every change; ends when `verify` exits with 0, or when it has taken too long."""
        loop = asyncio.get_running_loop()
        start, last = loop.time(), ""
        while loop.time() - start < HEALED_WITHIN_S:
            code, rows = self.terminal.look("verify", NAME)
            text = self._pieces(code, rows)
            if text != last:
                say(f"  {loop.time() - start:5.0f} s   {text}")
                last = text
            if code == 0:
                return
            await asyncio.sleep(LOOK_S)

    def _pieces(self, code: int, rows: list[dict[str, Any]]) -> str:
        """The weakest segment in words."""
        if not rows or not rows[0]["segments"]:
            return f"verify says nothing, exit code {code}"
        weakest = min(rows[0]["segments"], key=lambda segment: len(_holders(segment)))
        holders = _holders(weakest)
        old = sum(node in self.crew for node in holders.values())
        return (
            f"{len(holders)} of {weakest['n']} pieces proven, {old} of them on nodes of the "
            f"first day; exit code {code}"
        )

    def _arrive(self) -> bool:
        self.terminal.potsherd("verify", NAME, "--deep")
        self.terminal.potsherd("get", NAME, "back")
        wrong = differences(self.folder / NAME, self.folder / "back")
        left = len(self._alive() & self.crew)
        say(f"Nodes of the first day that still run: {left} of {len(self.crew)}.")
        result = f"DIFFERENT: {wrong}" if wrong else "all the same."
        say(f"Compared byte for byte: {result}\n")
        return not wrong and not left


def _holders(segment: dict[str, Any]) -> dict[int, str]:
    """Node key by index, of the pieces that were proven just now."""
    return {piece["index"]: piece["key"] for piece in segment["pieces"] if piece["live"]}


def sail(folder: Path) -> bool:
    """With twenty nodes and four waves."""
    return Voyage(folder).sail(WAVES, CODE)


if __name__ == "__main__":
    play("theseus", sail)
