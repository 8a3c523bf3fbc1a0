"""`simulate`: what would happen, without waiting for it."""

from __future__ import annotations

import typer

from potsherd.cli import simulate_world

__all__ = ["register"]

app = typer.Typer(help="What would happen, without waiting for it.", no_args_is_help=True)
simulate_world.register(app)


def register(parent: typer.Typer) -> None:
    """Add the verbs of this module."""
    parent.add_typer(app, name="simulate")
