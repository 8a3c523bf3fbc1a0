"""The library: names, numbers, and what a NAME on the command line means."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from potsherd.crypto.eris import ReadCapability
from potsherd.datasets.library import (
    NAME_BYTES_MAX,
    Archive,
    Dataset,
    Library,
    StoredSegment,
    check_dataset_name,
    name_from,
    resolve,
)
from potsherd.errors import NotFoundError, RefusedError, StorageError, UsageError


def capability(seed: int) -> ReadCapability:
    return ReadCapability(1024, 1, bytes([seed]) * 32, bytes([seed + 1]) * 32)


def archive(number: int, seed: int) -> Archive:
    return Archive(number, capability(seed), 1_700_000_000, 0, 4, 12, 8, 10, 3, 2**40, 2**41)


SEGMENTS = [StoredSegment(bytes([i]) * 32, bytes([i]) * 20, 4, 12, 2**30, 10 + i) for i in (0, 1)]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library.sqlite")


def reserve(library: Library, name: str, number: int | None = None) -> Dataset:
    return library.reserve(
        name,
        lambda n: bytes([n]) * 32,
        network="lab",
        public=False,
        spool="s-1",
        now=5,
        number=number,
    )


def test_a_dataset_is_reserved_then_stored(library: Library, tmp_path: Path) -> None:
    assert (tmp_path / "library.sqlite").stat().st_mode & 0o777 == 0o600
    dataset = reserve(library, "first")
    assert (dataset.number, dataset.spool, dataset.dataset_id) == (0, "s-1", bytes(32))
    with pytest.raises(NotFoundError, match="not been stored"):
        _ = dataset.newest
    library.add_archive(0, archive(0, 1), SEGMENTS)
    library.add_archive(0, archive(1, 7), SEGMENTS[:1])
    library.add_archive(0, archive(1, 2), SEGMENTS)
    again = Library(tmp_path / "library.sqlite").dataset("first")
    assert again.newest == archive(1, 2) and again.archives[0] == archive(0, 1) and not again.spool
    assert library.segments(0, 1) == SEGMENTS
    library.set_placed(0, 1, [12, 3])
    assert [s.placed for s in library.segments(0, 1)] == [12, 3]
    assert [s.placed for s in library.segments(0, 0)] == [10, 11]


def test_the_lowest_free_number_is_taken(library: Library) -> None:
    """Recovery gives up after 20 unknown numbers in a row: gaps must not grow."""
    for number in range(4):
        assert reserve(library, f"d{number}").number == number
    library.add_archive(1, archive(0, 1), [])
    library.give_up(1)  # stored: stays
    library.give_up(2)
    assert [d.name for d in library.datasets()] == ["d0", "d1", "d3"]
    assert reserve(library, "again").number == 2
    assert reserve(library, "d2").number == 4


def test_recovery_names_the_number(library: Library) -> None:
    assert reserve(library, "recovered", 7).number == 7
    with pytest.raises(RefusedError):
        reserve(library, "other", 7)
    assert reserve(library, "next").number == 0


def test_two_puts_at_once_get_two_numbers(tmp_path: Path) -> None:
    numbers: list[int] = []

    def put(name: str) -> None:
        with Library(tmp_path / "library.sqlite") as library:
            numbers.append(reserve(library, name).number)

    Library(tmp_path / "library.sqlite").close()
    threads = [threading.Thread(target=put, args=(f"d{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(8))


def test_names_are_unique(library: Library) -> None:
    reserve(library, "one")
    with pytest.raises(UsageError, match="already"):
        reserve(library, "one")
    assert library.free_name("one") == "one-2" and library.free_name("two") == "two"
    reserve(library, "one-2")
    assert library.free_name("one") == "one-3"
    library.rename("one", "uno")
    assert library.dataset("uno").number == 0
    with pytest.raises(UsageError):
        library.rename("uno", "one-2")
    with pytest.raises(NotFoundError):
        library.rename("one", "x")


BAD_NAMES = [
    "",
    "-",
    "-x",
    "@x",
    "urn:eris:X",
    "URN:x",
    " a",
    "a ",
    "a\nb",
    "a\0",
    "\udc80",
    "x" * 201,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_be_mistaken(library: Library, name: str) -> None:
    with pytest.raises(UsageError):
        reserve(library, name)
    assert library.datasets() == []


@pytest.mark.parametrize(
    "path",
    [
        b"/a/data",
        "/",
        b"/x/-rf",
        b"/x/\xff\xfe",
        "/x/" + "é" * 120,
        b"/x/a\nb",
        "/x/urn:a",
        "/x/@ ",
    ],
)
def test_every_path_gives_a_name(path: bytes | str) -> None:
    name = name_from(path)
    assert check_dataset_name(name) and len(name.encode()) <= NAME_BYTES_MAX - 8


def test_the_name_of_a_path() -> None:
    assert name_from("/a/b/") == name_from(b"/a/b/../b") == "b" and name_from("/") == "dataset"


def test_resolving_names_and_links(library: Library, tmp_path: Path) -> None:
    reserve(library, "mine")
    library.add_archive(0, archive(0, 1), SEGMENTS)
    urn, nothing = capability(1).urn, io.StringIO("")
    by_name = resolve("mine", nothing, library)
    assert by_name.capability == capability(1) and by_name.dataset and not by_name.typed
    typed = resolve(urn, nothing, library)
    assert typed.capability == capability(1) and typed.typed and typed.dataset == by_name.dataset
    assert resolve(capability(3).urn, nothing, None).dataset is None
    (tmp_path / "link").write_text(f"\n {urn} \n")
    for text, stdin in (("-", urn + "\n"), (f"@{tmp_path / 'link'}", ""), ("-", "mine")):
        found = resolve(text, io.StringIO(stdin), library)
        assert found.capability == capability(1) and not found.typed


def test_what_does_not_resolve(library: Library, tmp_path: Path) -> None:
    reserve(library, "temperatures")
    (tmp_path / "long").write_text("x" * 10_000)
    (tmp_path / "bytes").write_bytes(b"\xff")
    urn = capability(1).urn
    wrong = [urn[:-1], urn + "A", urn.lower(), urn.replace("eris", "sire"), "urn:", urn[:-1] + "B"]
    for text in [*wrong, f"@{tmp_path / 'long'}", f"@{tmp_path / 'bytes'}", f"@{tmp_path}", "@\0"]:
        with pytest.raises(UsageError):
            resolve(text, io.StringIO(), library)
    for stdin in ("", "\n", "a\nb", urn[:-1]):
        with pytest.raises(UsageError):
            resolve("-", io.StringIO(stdin), library)
    for text in ("unknown", f"@{tmp_path / 'no'}", "temperatures"):
        with pytest.raises(NotFoundError):
            resolve(text, io.StringIO(), library)
    with pytest.raises(NotFoundError) as caught:
        resolve("temperatuers", io.StringIO(), library)
    assert "temperatures" in caught.value.remedy
    with pytest.raises(NotFoundError):
        resolve("temperatures", io.StringIO(), None)


def test_a_link_is_never_in_a_message(library: Library) -> None:
    urn = capability(1).urn
    with pytest.raises(UsageError) as caught:
        resolve(urn[:-1], io.StringIO(), library)
    assert urn[10:40] not in str(caught.value) + caught.value.remedy
    assert urn[10:40] not in repr(archive(0, 1))


def test_a_damaged_or_foreign_library(tmp_path: Path, library: Library) -> None:
    library._db.execute("PRAGMA user_version = 9")
    library.close()
    library.close()
    with pytest.raises(StorageError):
        Library(tmp_path / "library.sqlite")
    (tmp_path / "damaged").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError):
        Library(tmp_path / "damaged")
    with pytest.raises(StorageError):
        Library(tmp_path / "no" / "folder")
