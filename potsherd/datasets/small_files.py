"""Small files of a home, secret or not: whole or absent, because they are synced under another name and renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from potsherd.errors import MalformedError, NotFoundError, StorageError, UsageError

__all__ = ["private_folder", "read_json", "read_small", "write_new", "write_private"]

SMALL_FILE_BYTES_MAX = 4 * 2**20


def private_folder(path: Path) -> Path:
    """Make a folder, and its parents, that only its user can enter (0700)."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror}") from None
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace a file with mode 0600, at once and durably. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def write_new(path: Path, data: bytes) -> None:
    """Make a secret file (0600) where the user wants it. Raises UsageError when there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UsageError(f"{path} is there already", remedy="Choose another place.") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_small(path: Path) -> bytes:
    """The whole file. Raises NotFoundError, StorageError, and MalformedError when it is no small file."""
    try:
        with path.open("rb") as file:
            data = file.read(SMALL_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > SMALL_FILE_BYTES_MAX:
        raise MalformedError(f"{path} is longer than {SMALL_FILE_BYTES_MAX} bytes")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Like `read_small`, for a JSON object; raises MalformedError when it is none."""
    try:
        value = json.loads(read_small(path))
    except ValueError:  # MalformedError too
        value = None
    if not isinstance(value, dict):
        raise MalformedError(f"{path} is damaged")
    return value
