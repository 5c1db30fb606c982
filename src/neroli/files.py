"""Files: written atomically, and known by a hash of their content."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from neroli.errors import ArtefactError

try:
    import fcntl
except ImportError:  # not on Windows, where concurrent writers are not noticed
    fcntl = None  # type: ignore[assignment]

DIGEST_BYTES = 16
LOCK = ".neroli-lock"
"""In every folder neroli writes to; marks it as neroli's own."""


def digest(*parts: bytes | memoryview) -> bytes:
    """The 128-bit BLAKE2b hash of some bytes."""
    content = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        content.update(part)
    return content.digest()


def tensor_digest(tensor: Tensor) -> bytes:
    """The hash of a tensor's shape, dtype and bytes."""
    array = np.ascontiguousarray(as_bytes_array(tensor))
    return digest(f"{tensor.dtype}{list(tensor.shape)}".encode(), array.reshape(-1).data)


def as_bytes_array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A tensor's bytes, whatever its dtype (NumPy has no bfloat16)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if len(flat) else np.empty(0, np.uint8)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The hash of named tensors, whatever their order, as hexadecimal text."""
    parts = (
        part for name in sorted(tensors) for part in (name.encode(), tensor_digest(tensors[name]))
    )
    return digest(*parts).hex()


def text_digest(lines: Iterable[str]) -> str:
    """The hash of lines of text in order, as hexadecimal text."""
    return digest(*(f"{line}\n".encode(errors="surrogateescape") for line in lines)).hex()


def checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """The hash of all that a file holds: what it says of itself, and named tensors."""
    return digest(header.encode(), tensors_digest(tensors).encode()).hex()


@contextmanager
def atomic_path(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` when the block ends well.

    Args:
        path: of the file.
        private: whether its owner alone may read it.

    Raises:
        ArtefactError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:60]}.", suffix=f".tmp{path.suffix}", dir=path.parent
        )
    except OSError as error:
        raise ArtefactError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o600 if private else 0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # a full disk, most likely
        raise ArtefactError(f"Cannot write {str(path)!r}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def link(source: Path, path: Path) -> None:
    """Make ``path`` the same file as ``source``, or a copy where a file cannot have two names.

    Raises:
        ArtefactError: if it cannot be written.
    """
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without hard links
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Be the only process that writes to a folder, which is made if missing.

    Raises:
        ArtefactError: if another process is, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_of(folder / LOCK)
    except OSError as error:
        raise ArtefactError(
            f"Cannot write to {str(folder)!r}: {error.strerror or error}."
        ) from None
    if lock is None:
        raise ArtefactError(
            f"Another process is writing the {what} {str(folder)!r}: wait until it is done."
        )
    with lock:
        yield


def lock_of(path: Path) -> IO[str] | None:
    """A lock file, made if missing, that no other process has until it is closed; None if one has.

    Raises:
        OSError: if it cannot be written.
    """
    file = path.open("a")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
    return file


def is_free(folder: Path, marker: str, says: str) -> bool:
    """Whether neroli may write to a folder: it is new, empty, or neroli's own.

    Its own folders have the lock, or a file of the name ``marker`` in which stands ``says``.
    """
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    if (folder / LOCK).exists() or not any(folder.iterdir()):
        return True
    try:
        return says in (folder / marker).read_text()
    except (OSError, ValueError):
        return False


def remove_own(folder: Path) -> None:
    """Delete a folder of neroli's and those in it, each of which ``is_free`` until it is gone.

    What cannot be deleted stays.
    """
    lock = folder / LOCK
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            remove_own(path)
        elif path != lock:
            _unlinked(path)
    _unlinked(lock)
    with suppress(OSError):
        folder.rmdir()


def drop_temporaries(path: Path) -> None:
    """Delete what killed processes left beside a file that they were writing, and nobody is now."""
    for temporary in path.parent.glob(f".{glob.escape(path.name[:60])}.*.tmp{path.suffix}"):
        _unlinked(temporary)


def _unlinked(path: Path) -> None:
    with suppress(OSError):  # it may be held, which matters on Windows
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
