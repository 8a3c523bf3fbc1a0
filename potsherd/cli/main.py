"""The command `potsherd`: its verbs, and the one place where errors become exit codes.

Importing this module must stay cheap (`potsherd --help` in 0.2 s): commands import what they need when they run.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from potsherd.cli import (
    data,
    keeping,
    lab,
    network,
    node,
    plan,
    repairing,
    retrieve,
    setup,
    simulate,
    store,
)
from potsherd.cli.context import GC_ALLOCATIONS, GC_GENERATIONS
from potsherd.cli.output import Output
from potsherd.errors import PotsherdError

__all__ = ["app", "exit_code_of", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "POTSHERD_DEBUG"

# The exception classes of the command-line parser, wherever the installed typer keeps them.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="potsherd",
    help="Keep datasets alive on disk that people and institutes give.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich costs 40 ms of every --help
    pretty_exceptions_enable=False,
    add_completion=False,
)
setup.register(app)
app.command("put")(store.put)
app.command("list")(store.list_)
app.command()(keeping.renew)
app.command()(keeping.withdraw)
for _verb in (retrieve.ls, retrieve.stat, retrieve.verify, retrieve.get, retrieve.cat):
    app.command()(_verb)
app.command()(repairing.repair)
app.command()(repairing.why)
app.command("peers")(data.peers)
network.register(app)
node.register(app)
lab.register(app)
app.command("plan")(plan.plan)
simulate.register(app)


def _version(value: bool) -> None:
    if value:
        from potsherd import __version__

        typer.echo(f"potsherd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Keep datasets alive on disk that people and institutes give."""


def _leaf(error: BaseException) -> BaseException:
    """The error that matters in a group: ours if there is one, else the first."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup(PotsherdError)
        error = (ours or error).exceptions[0]
    return error


def exit_code_of(error: BaseException) -> int:
    """The documented exit code (docs/cli.md): 0 to 7, or 130 for an interruption."""
    error = _leaf(error)
    if isinstance(error, PotsherdError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return EXIT_INTERRUPTED
    if isinstance(error, _ClickException):
        return int(getattr(error, "exit_code", EXIT_USAGE))
    return EXIT_FAILED


def _describe(error: BaseException) -> tuple[str, str]:
    """(message, remedy) for people."""
    if isinstance(error, PotsherdError):
        return error.message, error.remedy
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", ""
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or str(error) or type(error).__name__}{where}", ""
    return (
        f"a mistake in potsherd: {type(error).__name__}: {error}",
        f"Run it again with {DEBUG_VARIABLE}=1 and report what it prints.",
    )


def _report(error: BaseException, *, as_json: bool) -> None:
    error = _leaf(error)
    code = exit_code_of(error)
    if isinstance(error, _ClickException):
        error.show()  # type: ignore[attr-defined]
        message, remedy = error.format_message(), ""  # type: ignore[attr-defined]
    else:
        message, remedy = _describe(error)
        text = f"potsherd: {message}" + (f"\n  {remedy}" if remedy else "")
        Output(as_json=False).note(text)
    if as_json:
        fields = {"kind": type(error).__name__, "message": message, "remedy": remedy}
        Output(as_json=True).show("error", None, **fields, exit_code=code)


def _run(arguments: Sequence[str]) -> int:
    result: Any = app(args=list(arguments), standalone_mode=False, prog_name="potsherd")
    return result if isinstance(result, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit with its code; no traceback unless POTSHERD_DEBUG is set."""
    # The modules that a command imports are no garbage: looking through them cost 20 ms.
    gc.set_threshold(GC_ALLOCATIONS, *GC_GENERATIONS)
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        _report(error, as_json=as_json)
        code = exit_code_of(error)
    sys.exit(code)
