"""What every test stands on: no settings of the person who runs it, and the same examples every time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A test that fails for one person fails for all: the examples depend on the test alone.  `make nightly` looks
# further with HYPOTHESIS_PROFILE=explore.
settings.register_profile(
    "suite",
    derandomize=True,
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

CHECKOUT_VARIABLE = "POTSHERD_CHECKOUT"
"""Where the sources are when the tests run on an installed wheel; see .ci/run."""


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder with pyproject.toml and docs/; its `potsherd/` need not be what is tested."""
    return Path(os.environ.get(CHECKOUT_VARIABLE, Path(__file__).parent.parent))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Nobody's home or cache is read or written by a test: they are folders that do not exist yet."""
    for name in list(os.environ):
        if name.startswith("POTSHERD_") and name != CHECKOUT_VARIABLE:
            monkeypatch.delenv(name)
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("POTSHERD_HOME", str(base / "no-home"))
    monkeypatch.setenv("POTSHERD_KERNEL_CACHE", str(base / "kernels"))
    yield
