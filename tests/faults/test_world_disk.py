"""The virtual disk forgets what real disks forget, and nothing else."""

from __future__ import annotations

import pytest

from potsherd.errors import NotFoundError, StorageError
from potsherd.ports import Disk
from potsherd.simulations.world import World

SEEDS = range(60)
BODY = bytes(range(256)) * 32


def store(disk: Disk, *, forget: str = "") -> None:
    """The order that promise 6 asks for, with one step left out."""
    disk.create("new/f", len(BODY))
    disk.write("new/f", 0, BODY)
    if forget != "sync":
        disk.sync("new/f")
    disk.rename("new/f", "kept/f")
    if forget != "sync_folder":
        disk.sync_folder("kept")


def after_power_cut(seed: int, forget: str) -> str:
    with World(seed) as world:
        store(world.env("a").disk, forget=forget)
        world.crash("a")
        disk = world.restart("a").disk
        try:
            return "whole" if disk.read("kept/f", 0, len(BODY)) == BODY else "torn"
        except NotFoundError:
            return "gone"
        except StorageError:
            return "short"


def test_what_was_synced_in_order_survives_every_power_cut() -> None:
    assert {after_power_cut(seed, "") for seed in SEEDS} == {"whole"}


def test_without_sync_of_the_file_its_bytes_may_be_torn_or_missing() -> None:
    outcomes = {after_power_cut(seed, "sync") for seed in SEEDS}
    assert outcomes == {"whole", "torn", "short"}


def test_without_sync_of_the_folder_the_name_may_be_missing() -> None:
    assert {after_power_cut(seed, "sync_folder") for seed in SEEDS} == {"whole", "gone"}


def names_after_moving_between_folders(seed: int) -> frozenset[str]:
    with World(seed) as world:
        disk = world.env("a").disk
        disk.create("a/f", 0)
        disk.sync_folder("a")
        disk.rename("a/f", "b/f")
        world.crash("a")
        return frozenset(path for path, _, _ in world.restart("a").disk.walk(""))


def test_file_moved_between_folders_may_be_in_both_but_never_in_none() -> None:
    outcomes = {names_after_moving_between_folders(seed) for seed in SEEDS}
    assert outcomes == {frozenset({"a/f"}), frozenset({"a/f", "b/f"}), frozenset({"b/f"})}


def content_after_overwriting(seed: int) -> bytes:
    with World(seed) as world:
        disk = world.env("a").disk
        for name, body in (("old", b"old"), ("new", b"new")):
            disk.create(f"d/{name}", 3)
            disk.write(f"d/{name}", 0, body)
            disk.sync(f"d/{name}")
        disk.sync_folder("d")
        disk.rename("d/new", "d/old")
        world.crash("a")
        return bytes(world.restart("a").disk.read("d/old", 0, 3))


def test_rename_within_a_folder_is_atomic() -> None:
    assert {content_after_overwriting(seed) for seed in SEEDS} == {b"old", b"new"}


def test_killed_process_loses_nothing_that_was_written() -> None:
    with World(1) as world:
        disk = world.env("a").disk
        disk.create("f", 4)
        disk.write("f", 0, b"data")
        world.kill("a")
        assert world.restart("a").disk.read("f", 0, 4) == b"data"


def test_disk_is_full_at_its_capacity_and_removing_makes_room() -> None:
    with World(1) as world:
        disk = world.env("a", capacity_bytes=100_000).disk
        disk.create("one", 50_000)
        with pytest.raises(StorageError, match="no space"):
            disk.create("two", 50_000)
        assert [path for path, _, _ in disk.walk("")] == ["one"]
        disk.truncate("one", 20_000)
        disk.create("two", 50_000)
        disk.rename("two", "one")
        assert disk.free() == 100_000 - 53_248
        disk.remove("one")
        assert disk.free() == 100_000


def test_space_is_right_after_a_power_cut() -> None:
    for seed in SEEDS:
        with World(seed) as world:
            disk = world.env("a", capacity_bytes=1_000_000).disk
            for i in range(8):
                disk.create(f"d{i % 2}/f{i}", 5000 * (i + 1))
            disk.sync("d0/f2")
            disk.rename("d0/f0", "d1/f1")
            disk.remove("d0/f4")
            world.crash("a")
            disk = world.restart("a").disk
            files = {id(inode): inode for _, inode in world.disk("a").files()}
            used = sum(
                inode.allocated for inode in files.values()
            )  # a moved file may have two names
            assert disk.free() == 1_000_000 - used


OPERATIONS = [
    "create",
    "write",
    "read",
    "truncate",
    "sync",
    "sync_folder",
    "rename",
    "remove",
    "walk",
    "free",
    "open_index",
]


@pytest.mark.parametrize("failing", OPERATIONS)
def test_each_call_can_be_made_to_fail_and_then_does_nothing(failing: str) -> None:
    with World(1) as world:
        disk = world.env("a").disk
        disk.create("f", 4)
        before = [(path, bytes(inode.live)) for path, inode in world.disk("a").files()]

        def fault(operation: str, path: str) -> Exception | None:
            return StorageError("input/output error") if operation == failing else None

        world.disk("a").fault = fault
        calls = {
            "create": lambda: disk.create("g", 4),
            "write": lambda: disk.write("f", 0, b"data"),
            "read": lambda: disk.read("f", 0, 4),
            "truncate": lambda: disk.truncate("f", 0),
            "sync": lambda: disk.sync("f"),
            "sync_folder": lambda: disk.sync_folder(""),
            "rename": lambda: disk.rename("f", "g"),
            "remove": lambda: disk.remove("f"),
            "walk": lambda: disk.walk(""),
            "free": disk.free,
            "open_index": lambda: disk.open_index("index"),
        }
        with pytest.raises(StorageError, match="input/output"):
            calls[failing]()  # type: ignore[no-untyped-call]
        world.disk("a").fault = None
        after = [(path, bytes(inode.live)) for path, inode in world.disk("a").files()]
        assert after == before
        for call in calls.values():
            call()  # type: ignore[no-untyped-call]


def test_power_can_fail_in_the_middle_of_a_call() -> None:
    with World(1) as world:
        disk = world.env("a").disk

        def fault(operation: str, path: str) -> Exception | None:
            if operation == "sync":
                world.crash("a")
            return None

        world.disk("a").fault = fault
        with pytest.raises(StorageError):
            store(disk)
        world.disk("a").fault = None
        assert not world.running("a")
        with pytest.raises(NotFoundError):
            world.restart("a").disk.read("kept/f", 0, 1)


def test_rot_changes_one_bit_for_ever() -> None:
    with World(1) as world:
        disk = world.env("a").disk
        store(disk)
        world.disk("a").rot("kept/f", 1000, 0x10)
        rotten = bytearray(BODY)
        rotten[1000] ^= 0x10
        assert disk.read("kept/f", 0, len(BODY)) == rotten
        world.crash("a")
        assert world.restart("a").disk.read("kept/f", 0, len(BODY)) == rotten
