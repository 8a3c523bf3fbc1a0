"""The parts alone: hashes, ciphers, memory, ERIS, erasure code, streams, disk. What the whole cannot be faster than.

Figures are MB per CPU-second of one thread, the best of five, unless a column says otherwise.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b, sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from bench_kit import MB, Report, best, random_bytes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from potsherd.crypto.eris.backend import Backend, PlainBackend, self_check
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.code import Code
from potsherd.kernels.choice import eris_kernel, gf_engine
from potsherd.kernels.gf_numpy import NumpyEngine
from potsherd.node.payloads import PayloadBuffers
from potsherd.node.real.disk import RealDisk
from potsherd.node.real.net import RealNet
from potsherd.ports import Address, Identity, Stream

__all__ = ["DiskBound", "IsaL", "disk_bound", "primitives"]

BATCH = 2**20
PIECE = 4 * 2**20
SECRET = bytes(range(32))
CODES = ((3, 10), (10, 30), (16, 48), (29, 80))


def primitives(report: Report, folders: Sequence[Path]) -> None:
    """All tables of this module."""
    _hashes(report)
    _eris(report)
    _eris_threads(report)
    _erasure(report)
    _streams(report)
    _disks(report, folders)


def _rate(size: int, work: Callable[[], object], rounds: int = 8) -> float:
    """MB per CPU-second."""

    def loop() -> None:
        for _ in range(rounds):
            work()

    return size * rounds / MB / best(loop).cpu_s


# --- hashes, ciphers, memory ----------------------------------------------------------------------


def _hashes(report: Report) -> None:
    data = random_bytes(BATCH)
    target = bytearray(BATCH)
    stream = Cipher(ChaCha20(SECRET, bytes(16)), None).encryptor()

    def copy() -> None:
        target[:] = data

    report.table(
        "Primitives",
        "One thread, 1 MiB at a time. The first two are what any one file's hashes cost.",
    )
    for name, work in (
        ("BLAKE2b-256, hashlib", lambda: blake2b(data, digest_size=32).digest()),
        ("SHA-256, hashlib", lambda: sha256(data).digest()),
        ("ChaCha20, cryptography", lambda: stream.update_into(data, target)),
        ("copy of memory in use", copy),
        ("copy into fresh memory", lambda: bytes(bytearray(data))),
    ):
        report.row(primitive=name, MB_per_cpu_s=_rate(BATCH, work))


# --- ERIS -----------------------------------------------------------------------------------------


def _eris(report: Report) -> None:
    kernel = eris_kernel(self_check).now()
    plain = PlainBackend()
    report.table(
        "ERIS",
        "One thread, batches of 1 MiB. Decoding is checking the reference and deciphering. Plain is hashlib and cryptography.",
    )
    for block in (32768, 1024):
        for what, work in (
            ("encode", _encode),
            ("encode and hash the content", _encode_and_hash),
            ("decode", _decode),
        ):
            slow = _rate(BATCH, partial(work, plain, block), rounds=2)
            fast = _rate(BATCH, partial(work, kernel, block)) if kernel else 0.0
            report.row(
                block=block,
                work=what,
                kernel=kernel.name if kernel else "not installed",
                kernel_MB_per_cpu_s=fast,
                plain_MB_per_cpu_s=slow,
                ratio=fast / slow,
            )


_DATA = random_bytes(BATCH)


def _encode(backend: Backend, block: int) -> None:
    backend.encrypt_leaves(_DATA, block, SECRET)


def _encode_and_hash(backend: Backend, block: int) -> None:
    """As of a content that goes on behind the batch."""
    hashing = backend.hashing(2 * BATCH)
    (hashing or backend).encrypt_leaves(_DATA, block, SECRET)
    if hashing is None:
        blake2b(_DATA, digest_size=32).digest()


def _decode(backend: Backend, block: int) -> None:
    backend.references(_DATA, block)
    backend.decrypt(_DATA, _DATA[: 32 * (BATCH // block)], block, 0)


def _rounds(count: int) -> None:
    kernel = eris_kernel(self_check).now() or PlainBackend()
    for _ in range(count):
        _encode(kernel, 32768)


def _process(count: int, go: Any, done: Any) -> None:
    _rounds(2)
    done.wait()
    go.wait()
    _rounds(count)
    done.wait()


def _eris_threads(report: Report, count: int = 200) -> None:
    report.table(
        "ERIS on two cores",
        "MB per second by the clock, 32 KiB blocks, best of five, alternating. Two cores may share one core's vector units.",
    )
    rates: dict[str, list[float]] = {"one thread": [], "two threads": [], "two processes": []}
    for _ in range(5):
        start = time.perf_counter()
        _rounds(count)
        rates["one thread"].append(count * BATCH / MB / (time.perf_counter() - start))
        rates["two threads"].append(2 * count * BATCH / MB / _threads(count))
        rates["two processes"].append(2 * count * BATCH / MB / _processes(count))
    one = max(rates["one thread"])
    for name, found in rates.items():
        report.row(workers=name, MB_per_s=max(found), ratio_to_one=max(found) / one)


def _threads(count: int) -> float:
    workers = [threading.Thread(target=_rounds, args=(count,)) for _ in range(2)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def _processes(count: int) -> float:
    context = get_context("fork")
    go, done = context.Event(), context.Barrier(3)
    workers = [context.Process(target=_process, args=(count, go, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    done.wait()
    start = time.perf_counter()
    go.set()
    done.wait()
    taken = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return taken


# --- erasure code ---------------------------------------------------------------------------------


class IsaL:
    """Intel ISA-L out of the wheel of `pyeclib`, where that is installed: the yardstick, never the engine."""

    COLUMN = 16 * 1024
    """Bytes of each shard worked on at a time, so that they stay in the cache."""

    def __init__(self) -> None:
        """Raises ImportError."""
        found = importlib.util.find_spec("pyeclib")
        folders = (
            [Path(p).parent for p in (found.submodule_search_locations or ())] if found else []
        )
        libraries = [p for f in folders for p in (f / "pyeclib.libs").glob("libisal*")]
        if not libraries:
            raise ImportError("pyeclib with ISA-L is not installed")
        self._library = ctypes.CDLL(str(libraries[0]))

    def multiplier(
        self, matrix: Sequence[bytes], inputs: Sequence[bytearray], outputs: Sequence[bytearray]
    ) -> Callable[[], None]:
        """A call that fills `outputs`; the tables and addresses are made before."""
        k, rows, size = len(inputs), len(outputs), len(inputs[0])
        tables = ctypes.create_string_buffer(32 * k * rows)
        self._library.ec_init_tables(k, rows, b"".join(matrix), tables)
        kept = [[(ctypes.c_char * size).from_buffer(b) for b in side] for side in (inputs, outputs)]
        calls = []
        for at in range(0, size, self.COLUMN):
            arrays = [
                (ctypes.c_void_p * len(side))(*(ctypes.addressof(b) + at for b in side))
                for side in kept
            ]
            calls.append((min(self.COLUMN, size - at), k, rows, tables, *arrays))

        def run() -> None:
            assert kept
            for call in calls:
                self._library.ec_encode_data(*call)

        return run


def _erasure(report: Report, size: int = 2**20) -> None:
    """Shards of 1 MiB; rebuilt are as many data shards as parity can replace, at most three."""
    try:
        isal: IsaL | None = IsaL()
        note = "ISA-L from the pyeclib wheel, 16 KiB columns."
    except ImportError as error:
        isal, note = None, f"Without the yardstick: {error}."
    engine = gf_engine()
    report.table(
        "Erasure code",
        f"MB of data per CPU-second, one thread, shards of 1 MiB. Ours: {engine.name}. {note}",
    )
    for k, n in CODES:
        _one_code(report, Code(k, n, engine=engine), isal, size)


def _one_code(report: Report, code: Code, isal: IsaL | None, size: int) -> None:
    k, numpy = code.k, Code(code.k, code.n, engine=NumpyEngine())
    data = [bytearray(random_bytes(size, i)) for i in range(k)]
    parity = [bytearray(size) for _ in range(code.n - k)]
    lost = range(min(3, k))
    there: dict[int, Any] = {i: data[i] for i in range(k) if i not in lost}
    there |= {k + j: parity[j] for j in lost}
    rebuilt = {i: bytearray(size) for i in lost}
    ours = _rate(k * size, partial(code.parity_into, data, parity), rounds=2)
    slow = _rate(k * size, partial(numpy.parity_into, data, parity), rounds=1)
    again = _rate(k * size, partial(code.rebuild_into, there, rebuilt), rounds=2)
    assert all(rebuilt[i] == data[i] for i in lost)
    theirs = _isal_rate(isal, code.parity_matrix, data, parity) if isal else 0.0
    report.row(
        code=f"{k} of {code.n}",
        encode=ours,
        ISA_L_encode=theirs,
        ISA_L_over_ours=theirs / ours,
        rebuild_3_data=again,
        numpy_encode=slow,
    )


def _isal_rate(
    isal: IsaL, matrix: Sequence[bytes], data: list[bytearray], parity: list[bytearray]
) -> float:
    other = [bytearray(len(parity[0])) for _ in parity]
    run = isal.multiplier(matrix, data, other)
    rate = _rate(len(data) * len(data[0]), run, rounds=2)
    assert other == parity  # the same bytes, or it is no yardstick
    return rate


# --- streams --------------------------------------------------------------------------------------


def _identity(number: int) -> Identity:
    seed = bytes([number]) * 32
    return Identity(seed, SigningKey(seed).verify_key, bytes(32))


def _streams(report: Report, size: int = 512 * 2**20) -> None:
    report.table(
        "A stream on loopback", "One connection, two processes, 1 MiB a write; CPU-seconds per GB."
    )
    for _ in range(3):
        sent, taken, wall = _stream_once(size)
        per_gb = 1e9 / size
        report.row(
            sender=sent * per_gb,
            receiver=taken * per_gb,
            both=(sent + taken) * per_gb,
            MB_per_s=size / MB / wall,
        )


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _stream_once(size: int) -> tuple[float, float, float]:
    here, there = get_context("fork").Pipe()
    worker = get_context("fork").Process(target=_take, args=(there, size))
    worker.start()
    sent, wall = _loop_run(_give(here.recv(), size))
    taken = here.recv()
    worker.join()
    return sent, taken, wall


def _loop_run(main: Any) -> Any:
    from potsherd.cli.context import run

    return run(main)


async def _give(port: int, size: int) -> tuple[float, float]:
    address, other = Address("127.0.0.1", port), _identity(2)
    stream = await RealNet().dial(address, _identity(1), other.key, timeout_s=10)
    piece, cpu, wall = random_bytes(BATCH), _own_cpu(), time.perf_counter()
    for _ in range(size // BATCH):
        await stream.write(piece)
    await stream.read_exactly(1)
    spent = _own_cpu() - cpu, time.perf_counter() - wall
    await stream.close()
    return spent


def _take(pipe: Any, size: int) -> None:
    async def main() -> None:
        done = asyncio.get_running_loop().create_future()

        async def accept(stream: Stream) -> None:
            target, cpu = memoryview(bytearray(BATCH)), _own_cpu()
            for _ in range(size // BATCH):
                await stream.read_into(target)
            spent = _own_cpu() - cpu
            await stream.write(b"!")
            done.set_result(spent)

        listener = await RealNet().listen(Address("127.0.0.1", 0), _identity(2), accept)
        pipe.send(listener.address.port)
        pipe.send(await done)
        await asyncio.sleep(0.2)
        await listener.close()

    _loop_run(main())


# --- disk -----------------------------------------------------------------------------------------


class DiskBound(NamedTuple):
    """What files of shards cost without potsherd."""

    write_s: float
    write_cpu_s: float
    read_s: float
    read_cpu_s: float


def disk_bound(folder: Path, size: int, files: int) -> DiskBound:
    """Write `size` bytes to so many files and fsync each, then read all: as holders do, in pieces of 4 MiB.

    All files at the same time, as they are those of so many holders.
    """
    each = max(1, size // files)
    piece = PayloadBuffers().take(PIECE)
    piece[:] = random_bytes(PIECE)
    with tempfile.TemporaryDirectory(dir=folder) as work, ThreadPoolExecutor(files) as pool:
        disk = RealDisk(Path(work))

        def write(name: str) -> None:
            disk.create(name, each)
            for at in range(0, each, PIECE):
                disk.write(name, at, piece[: each - at])
            disk.sync(name)

        def read(name: str) -> None:
            for at in range(0, each, PIECE):
                disk.read(name, at, min(PIECE, each - at))

        names = [str(number) for number in range(files)]
        wall, cpu = time.perf_counter(), _own_cpu()
        list(pool.map(write, names))
        written, written_cpu = time.perf_counter() - wall, _own_cpu() - cpu
        list(pool.map(read, names))
        read_s, read_cpu = time.perf_counter() - wall - written, _own_cpu() - cpu - written_cpu
        return DiskBound(written, written_cpu, read_s, read_cpu)


def _disks(report: Report, folders: Sequence[Path], size: int = 640 * 2**20) -> None:
    report.table(
        "Disk",
        "640 MiB in ten files at the same time, 4 MiB at a time past the page cache where that goes, fsync of each; then read back.",
    )
    for folder in folders:
        for _ in range(3):
            bound = disk_bound(folder, size, 10)
            report.row(
                folder=str(folder),
                written_MB_per_s=size / MB / bound.write_s,
                written_cpu_s_per_GB=bound.write_cpu_s * 1e9 / size,
                read_MB_per_s=size / MB / bound.read_s,
                read_cpu_s_per_GB=bound.read_cpu_s * 1e9 / size,
            )
