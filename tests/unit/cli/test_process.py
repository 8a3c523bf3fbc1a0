"""How the process `potsherd` ends: with everything done and said, and nothing taken apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAD = """
import atexit, gc, sys, threading, time
from potsherd.cli import main as command
from potsherd.cli.process import start

class Last:
    def __del__(self):
        print("taken apart", flush=True)

def work():
    time.sleep(0.05)
    print("a thread's last word")

def main():
    global last
    last = Last()
    atexit.register(print, "registered")
    threading.Thread(target=work).start()
    print("noted", end="", file=sys.stderr)
    END

command.main = main
start()
"""


def ended(end: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD.replace("END", end)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(("end", "code"), [("0", 0), ("6", 6), ("130", 130), ("", 0)])
def test_it_ends_with_its_code_when_threads_and_registered_calls_are_over(
    end: str, code: int
) -> None:
    done = ended(f"sys.exit({end})")
    assert (done.returncode, done.stdout, done.stderr) == (
        code,
        "a thread's last word\nregistered\n",
        "noted",
    )


def test_an_error_that_nobody_expected_is_shown_and_fails() -> None:
    done = ended("raise ZeroDivisionError")
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (1, True)


def test_with_the_variable_for_debugging_python_ends_as_usual() -> None:
    done = ended("sys.exit(6)", POTSHERD_DEBUG="1")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (6, "taken apart")


def test_a_reader_that_went_away_does_not_keep_it_from_ending() -> None:
    code = HEAD.replace("END", "print('x' * 10**6); sys.exit(3)")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 1
