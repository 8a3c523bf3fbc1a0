"""Compiles kernels at run time with llvmlite, and keeps the machine code on disk (docs/design/kernels.md).

llvmlite is optional (`pip install potsherd[fast]`): without it `load` raises KernelUnavailable and the
plain engines do the work. Calls go through ctypes, which releases the GIL.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potsherd.errors import PotsherdError

if TYPE_CHECKING:
    from llvmlite import binding as llvm_binding

__all__ = ["TARGETS", "KernelUnavailable", "Library", "Target", "best_target", "load", "targets"]

CACHE_FILES_MAX = 32
"""Compiled kernels kept on disk; the oldest go first."""
CACHE_VERSION = b"potsherd kernels 1"


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


class Library:
    """Functions of one compiled module."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def function(self, name: str, arguments: Sequence[type[Any]]) -> Any:
        """The function as a ctypes callable; it returns nothing and releases the GIL."""
        address = self._engine.get_function_address(name)
        if not address:
            raise KernelUnavailable(f"the compiled kernel has no {name}")
        return ctypes.CFUNCTYPE(None, *arguments)(address)


def load(text: str, target: Target, *, cache: Path | None = None) -> Library:
    """Compile a module's text, or take its machine code from `cache`. Raises KernelUnavailable.

    The folder is the user's own (0700); a file is used only when the digest it begins with is that of
    the rest, and its name is a digest of text, target, processor and LLVM version.
    """
    llvm = _binding()
    tuned = target is best_target()
    cpu = llvm.get_host_cpu_name() if tuned else target.cpu
    features = llvm.get_host_cpu_features().flatten() if tuned else ""
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=3, jit=True
    )
    name = _name(text, cpu, features, llvm.llvm_version_info)
    code = _cached(cache, name)
    if code is None:
        code = _compile(llvm, text, machine)
        _keep(cache, name, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _KEPT.append(engine)
    return Library(engine)


def _compile(llvm: llvm_binding, text: str, machine: Any) -> bytes:  # type: ignore[valid-type, unused-ignore]
    module = llvm.parse_assembly(text)
    module.verify()
    # Nothing here gains from the vectorisers: the text is vectors already.
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


def _name(text: str, cpu: str, features: str, version: tuple[int, ...]) -> str:
    parts = (CACHE_VERSION, text, cpu, features, repr(version), platform.machine())
    state = blake2b(digest_size=16)
    for part in parts:
        encoded = part if isinstance(part, bytes) else part.encode()
        state.update(len(encoded).to_bytes(8, "big") + encoded)
    return state.hexdigest() + ".o"


def _cached(cache: Path | None, name: str) -> bytes | None:
    if cache is None:
        return None
    with contextlib.suppress(OSError):
        folder = cache.stat()
        if hasattr(os, "getuid") and (folder.st_uid != os.getuid() or folder.st_mode & 0o022):
            return None  # somebody else could have put code there
        data = (cache / name).read_bytes()
        if blake2b(data[32:], digest_size=32).digest() == data[:32]:
            return data[32:]
    return None


def _keep(cache: Path | None, name: str, code: bytes) -> None:
    """Write to the cache; a disk that refuses costs only the next start."""
    if cache is None:
        return
    with contextlib.suppress(OSError):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache)
        with os.fdopen(handle, "wb") as file:
            file.write(blake2b(code, digest_size=32).digest() + code)
        Path(temporary).replace(cache / name)
        files = sorted(cache.glob("*.o"), key=lambda path: path.stat().st_mtime)
        for old in files[:-CACHE_FILES_MAX]:
            old.unlink()
