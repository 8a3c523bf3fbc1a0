"""Compiles kernels at run time with llvmlite, once for a machine (docs/design/kernels.md).

llvmlite is optional (`pip install potsherd[fast]`): without it `load` raises KernelUnavailable and the
plain engines do the work. Calls go through ctypes, which releases the GIL.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError
from potsherd.kernels import image

__all__ = [
    "TARGETS",
    "KernelUnavailable",
    "Library",
    "Target",
    "best_target",
    "compile_object",
    "load",
    "targets",
]


class KernelUnavailable(PotsherdError):  # noqa: N818 (a state of the machine, not a fault)
    """This machine has no compiled kernels."""


@dataclass(frozen=True)
class Target:
    """An instruction set that kernels are written for."""

    name: str
    vector_bits: int
    gf_method: str
    """A key of gf_ir.METHODS."""
    cpu: str
    """What LLVM may assume when it compiles for this set and no more."""
    needs: tuple[str, ...]
    """Features, by LLVM's names, that the machine must have."""
    machine: str = "x86_64"


_V2 = ("sse4.1", "ssse3")
_V3 = ("avx2", "bmi2")
_V4 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")

TARGETS = (
    Target("avx512-gfni", 512, "gfni512", "icelake-server", (*_V3, *_V4, "gfni")),
    Target("avx2-gfni", 256, "gfni256", "alderlake", (*_V3, "gfni")),
    Target("avx2", 256, "avx2", "x86-64-v3", _V3),
    Target("sse4", 128, "ssse3", "x86-64-v2", _V2),
    Target("neon", 128, "neon", "generic", ("neon",), "aarch64"),
)
"""Best first."""


def _binding() -> Any:  # the module llvmlite.binding, which has no type hints
    try:
        from llvmlite import binding
    except ImportError:
        raise KernelUnavailable("llvmlite is not installed") from None
    with _LOCK:
        if not _READY:
            binding.initialize_native_target()
            binding.initialize_native_asmprinter()
            _READY.append(True)
    return binding


_LOCK = threading.Lock()
_READY: list[bool] = []
_KEPT: list[Any] = []  # execution engines: their code must outlive every caller


@functools.cache
def targets() -> tuple[Target, ...]:
    """The instruction sets this machine can run, best first. Raises KernelUnavailable."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    features = _binding().get_host_cpu_features()
    found = tuple(
        t for t in TARGETS if t.machine == machine and all(features.get(n) for n in t.needs)
    )
    if not found:
        raise KernelUnavailable(f"no kernels for this processor ({machine})")
    return found


def best_target() -> Target:
    """The best of `targets()`."""
    return targets()[0]


class Library(Protocol):
    """Functions of one compiled module."""

    def function(self, name: str, arguments: Sequence[type[Any]]) -> Any:
        """The function as a ctypes callable; it returns nothing and releases the GIL."""


def load(
    kind: str,
    text: Callable[[Target], str],
    target: Target | None = None,
    *,
    cache: Path | None = None,
    compiling: bool = True,
) -> tuple[Library, Target]:
    """The kernel of that kind: its image if `cache` has one, else compiled now, and for which target.

    `target` None is the best of this machine. With `compiling` False llvmlite is not even looked for.
    Raises KernelUnavailable.
    """
    name = image.file_name(kind, target.name if target else None) if cache else None
    if cache is not None and name is not None:
        found = image.open_image(cache, name)
        made_for = next((t for t in TARGETS if found and t.name == found.target), None)
        if found is not None and made_for is not None:
            return found, made_for
    if not compiling:
        raise KernelUnavailable("no compiled kernel is there yet")
    chosen = target or best_target()
    code = compile_object(text(chosen), chosen, tuned=chosen == best_target())
    if cache is not None and name is not None and sys.platform == "linux":
        image.keep(cache, name, image.link(code, chosen.name))
        found = image.open_image(cache, name)
        if found is not None:
            return found, chosen
    return _Compiled(code), chosen


def compile_object(
    text: str, target: Target, *, tuned: bool = False, triple: str | None = None
) -> bytes:
    """A relocatable object of a module's text, for any processor that LLVM knows by `triple`.

    `tuned`: for this very processor, else for all that have the target's instruction sets.
    """
    llvm = _binding()
    if triple is None:
        chosen = llvm.Target.from_default_triple()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        chosen = llvm.Target.from_triple(triple)
    machine = chosen.create_target_machine(
        cpu=llvm.get_host_cpu_name() if tuned else target.cpu,
        features=llvm.get_host_cpu_features().flatten() if tuned else "",
        opt=3,
        reloc="pic",
        codemodel="small",
    )
    module = llvm.parse_assembly(text)
    module.triple = chosen.triple
    module.verify()
    # Nothing here gains from the vectorisers: the text is vectors already.
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


class _Compiled:
    """An object that LLVM has loaded: where there are no images."""

    def __init__(self, code: bytes) -> None:
        llvm = _binding()
        machine = llvm.Target.from_default_triple().create_target_machine(opt=3, jit=True)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        _KEPT.append(self._engine)

    def function(self, name: str, arguments: Sequence[type[Any]]) -> Any:
        """See Library."""
        address = self._engine.get_function_address(name)
        if not address:
            raise KernelUnavailable(f"the compiled kernel has no {name}")
        return ctypes.CFUNCTYPE(None, *arguments)(address)
