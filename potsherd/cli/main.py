"""The command `potsherd`: its verbs, and the one place where errors become exit codes.

Importing this module must stay cheap (`potsherd --help` in 0.2 s): commands import what they need when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import typer

from potsherd.cli.output import Output
from potsherd.cli.process import DEBUG_VARIABLE
from potsherd.errors import PotsherdError

__all__ = ["VERBS", "app", "exit_code_of", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# The exception classes of the command-line parser, wherever the installed typer keeps them.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]

VERBS = {
    "init": "setup.init",
    "config": "setup.config",
    "doctor": "setup.doctor",
    "put": "store.put",
    "list": "store.list_",
    "renew": "keeping.renew",
    "withdraw": "keeping.withdraw",
    "ls": "retrieve.ls",
    "stat": "retrieve.stat",
    "verify": "retrieve.verify",
    "get": "retrieve.get",
    "cat": "retrieve.cat",
    "repair": "repairing.repair",
    "why": "repairing.why",
    "peers": "data.peers",
    "network": "network.app",
    "node": "node.app",
    "lab": "lab.app",
    "plan": "plan.plan",
    "simulate": "simulate.app",
}
"""Where in potsherd.cli each verb, or group of verbs, stands; in the order of `--help`."""


def _version(value: bool) -> None:
    if value:
        from potsherd import __version__

        typer.echo(f"potsherd {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Keep datasets alive on disk that people and institutes give."""


def app(verb: str | None = None) -> typer.Typer:
    """The command line; with `verb` that one alone: parsing the signatures of all takes 20 ms."""
    found = typer.Typer(
        name="potsherd",
        help="Keep datasets alive on disk that people and institutes give.",
        no_args_is_help=True,
        rich_markup_mode=None,  # rich costs 40 ms of every --help
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    found.callback()(_options)
    for name in VERBS if verb is None else (verb,):
        module, _, attribute = VERBS[name].partition(".")
        what = getattr(import_module(f"potsherd.cli.{module}"), attribute)
        if isinstance(what, typer.Typer):
            found.add_typer(what, name=name)
        else:
            found.command(name)(what)
    return found


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
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    result: Any = app(verb)(args=list(arguments), standalone_mode=False, prog_name="potsherd")
    return result if isinstance(result, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit with its code; no traceback unless POTSHERD_DEBUG is set."""
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
            import traceback

            traceback.print_exc()
        _report(error, as_json=as_json)
        code = exit_code_of(error)
    sys.exit(code)
