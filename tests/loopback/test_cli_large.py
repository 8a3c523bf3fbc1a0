"""Large datasets through the command, a third of the nodes dead when they are read: whole, and in flat memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import Cli

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3000)]

K, N = 4, 12
MEMORY_GROWTH_MAX = 20 * 2**20
"""Bytes by which 200,000 files may take more memory than 20,000 that have as many bytes: both fill the window."""
MEMORY_MAX = 300 * 2**20
STORED_FACTOR_MAX = 1.1
"""Of n/k times the ciphertext."""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(tmp_path_factory.mktemp("large-home"))
    with command.lab(N):
        yield command


def measured(cli: Cli, *arguments: str | Path) -> int:
    """Run a verb; the peak of its resident memory in bytes."""
    process = cli.start(*arguments, "--json")
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, printed
    return usage.ru_maxrss * 1024


def used(cli: Cli) -> int:
    return sum(node["used"] for node in cli("lab", "status", "--json").objects)


def write_tree(folder: Path, files: int, size: int) -> None:
    rng = random.Random(files)
    for number in range(files):
        path = folder / f"{number // 1000:03}" / f"{number:06}.dat"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(rng.randbytes(rng.randrange(2 * size)))


def same_tree(one: Path, other: Path) -> bool:
    for folder, folders, files in os.walk(one):
        twin = other / Path(folder).relative_to(one)
        if sorted(os.listdir(twin)) != sorted(folders + files):
            return False
        for name in files:
            with (Path(folder) / name).open("rb") as a, (twin / name).open("rb") as b:
                while (piece := a.read(2**20)) == b.read(2**20):
                    if not piece:
                        break
                else:
                    return False
    return True


def there_and_back(cli: Cli, source: Path, back: Path) -> tuple[int, int]:
    """Put, kill a third, get, compare, start them again; peak memory of put and of get."""
    before = used(cli)
    put = measured(cli, "put", source, "--k", str(K), "--n", str(N))
    stat = cli("stat", source.name, "--json").object
    assert used(cli) - before <= STORED_FACTOR_MAX * stat["stream_bytes"] * N / K
    numbers = {node["key"]: node["node"] for node in cli("lab", "status", "--json").objects}
    [entry] = [segment for segment in stat["segments"] if segment["entry"]]
    dead = [str(numbers[p["key"]]) for p in entry["pieces"] if p["index"] < N // 3]
    try:
        cli("lab", "kill", *dead)
        get = measured(cli, "get", source.name, back)
        assert same_tree(source, back)
    finally:
        cli("lab", "start")
    return put, get


def test_one_file_of_a_gigabyte(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "gigabyte"
    source.mkdir()
    rng = random.Random(1)
    with (source / "one.bin").open("wb") as file:
        for _ in range(1000):
            file.write(rng.randbytes(1_000_000))
    assert max(there_and_back(cli, source, tmp_path / "back")) < MEMORY_MAX


def test_memory_does_not_grow_with_the_number_of_files(cli: Cli, tmp_path: Path) -> None:
    size, peaks = 400 * 2**20, []
    for files in (20_000, 200_000):
        source = tmp_path / f"files-{files}"
        write_tree(source, files, size // files)
        peaks.append(there_and_back(cli, source, tmp_path / f"back-{files}"))
    for few, many in zip(*peaks, strict=True):
        assert many - few <= MEMORY_GROWTH_MAX
        assert many < MEMORY_MAX
