"""What every test stands on: no settings of the person who runs it, and the same examples every time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from running_order import LONGEST_FIRST

# A test that fails for one person fails for all: the examples depend on the test alone.  `make nightly` looks
# further with HYPOTHESIS_PROFILE=explore: six times as many, and others each time.
settings.register_profile(
    "suite",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "explore", settings.get_profile("suite"), derandomize=False, max_examples=300
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Python 3.11 makes an event loop for whoever asks first. pytest-asyncio asks, puts it back and never closes
# it, which warns, and warnings are errors: say that there is none.
asyncio.set_event_loop(None)

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT_VARIABLE = "POTSHERD_CHECKOUT"
"""Where the sources are when the tests run on an installed wheel; see .ci/run."""
KERNELS_VARIABLE = "POTSHERD_KERNEL_CACHE"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST_FIRST, then all others; the tests of a file keep theirs."""
    tests = Path(__file__).parent
    place = {tests / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder with pyproject.toml and docs/; its `potsherd/` need not be what is tested."""
    return Path(os.environ.get(CHECKOUT_VARIABLE, Path(__file__).parent.parent))


@pytest.fixture(scope="session", autouse=True)
def _kept_for_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is compiled is compiled once for all workers and the processes they start; nobody's cache is touched."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KERNELS_VARIABLE, str(run / "kernels"))
        if (
            "PYTHONDONTWRITEBYTECODE" in os.environ
        ):  # without bytecode a command takes three times as long
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(run / "bytecode"))
        yield


@pytest.fixture(autouse=True)
def _no_settings_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Nobody's home is read or written by a test: POTSHERD_HOME is a folder that does not exist yet."""
    for name in list(os.environ):
        if name.startswith("POTSHERD_") and name not in (CHECKOUT_VARIABLE, KERNELS_VARIABLE):
            monkeypatch.delenv(name)
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("POTSHERD_HOME", str(base / "no-home"))
    yield
