"""Files that appear whole or not at all, outputs that are refused before any work, and hashes of content."""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vov import VovError

REPO = Path(__file__).resolve().parents[2]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "UTF-8"), (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))  # UTF-16's begins UTF-32's
PART = re.compile(r"\.vov-([0-9a-f]{4})-(\d+)-[0-9a-f]{8}\.part(\.\w+)?")


def _host() -> str:
    """4 hexadecimal digits of this machine's name: process numbers say nothing on another one."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def temporary_name(path: Path) -> Path:
    """The sibling that `atomic` writes to: names machine and process, and is short whatever the name of `path`."""
    digest = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return path.with_name(f".vov-{_host()}-{os.getpid()}-{digest}.part{path.suffix[:8]}")


@contextmanager
def atomic(path: str | Path, variable: str = "out_dir") -> Iterator[Path]:
    """Yields a temporary sibling of `path` to write to; on success it is fsynced and renamed to `path`.

    On any error (a full disk among them) the temporary file is removed and `path` is as it was.
    variable: the setting that a user would change to write elsewhere.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except Exception as error:
        if problem := write_problem(error, path, variable):
            raise problem from error
        raise
    finally:
        with suppress(OSError):  # its folder has gone or is no folder; the error that matters is under way
            temporary.unlink(missing_ok=True)


def write_problem(error: Exception, path: Path, variable: str) -> VovError | None:
    """What a user should read when writing `path` failed; None for errors that are not about the disk.

    safetensors reports the operating system's error as text alone, hence the search for its number.
    """
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number in FULL:
        return VovError(f"{path}: the disk is full; free some space and run the same command again")
    if number in FORBIDDEN:
        return VovError(f"{path}: cannot be written ({os.strerror(number)}); choose another `{variable}`")
    if number == errno.ENOENT:
        return VovError(f"{path}: cannot be written (its folder has vanished); run the same command again")
    return None


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def read_text(path: str | Path) -> str:
    """Text that a user wrote: UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is no part of the text.

    Raises VovError that names the first byte that does not fit.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "UTF-8")
    cure = "save it as UTF-8 (iconv -f cp1252 -t utf-8, or the encoding that it has)"
    try:
        text = data.decode("utf-8-sig" if encoding == "UTF-8" else encoding)
    except UnicodeDecodeError as error:
        raise VovError(f"{path}: byte {error.start} (0x{data[error.start]:02x}) is not {encoding}; {cure}") from error
    if "\0" in text:
        raise VovError(f"{path}: byte {data.find(0)} is zero, as in UTF-16 without a byte order mark; {cure}")
    return text


def there(path: str | Path) -> bool:
    """Whether a path leads to something; False, too, for names that no file can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def write_json(path: str | Path, value: object) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def taken(path: str | Path) -> bool:
    """Whether something is at `path` (a folder: that is not empty)."""
    path = Path(path)
    return any(path.iterdir()) if path.is_dir() else path.exists()


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raises VovError when `path` exists (for a folder: is not empty) and `overwrite` is false."""
    if taken(path) and not overwrite:
        raise VovError(f"{path} exists; set `overwrite`=1 to replace it or choose another output")


def refuse_unwritable(paths: Sequence[str | Path], variable: str = "out_dir") -> None:
    """Raises VovError when one of `paths` could not be created: a name too long, a file where a folder must be."""
    for path in map(Path, paths):
        if any(len(os.fsencode(part)) > 255 for part in path.parts):
            raise VovError(f"{str(path)[:80]}…: a name in it is longer than the 255 bytes that file systems hold; "
                           "set a shorter `name`")
        folder = next(parent for parent in (path.absolute().parents) if parent.exists())
        if not folder.is_dir():
            raise VovError(f"{folder}: is a file, but a folder is needed there; choose another `{variable}`")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise VovError(f"{folder}: cannot be written; choose another `{variable}`")


def refuse_overlap(outputs: Iterable[str | Path], inputs: Iterable[str | Path], variable: str = "out_dir") -> None:
    """Raises VovError when writing `outputs` would touch any of `inputs`: what is read is never written.

    An output may not be an input, lie in one, or be a folder that holds one. The disk is asked what is the same: links
    and .. are resolved, and so are two names of one file, by a hard link or because the disk does not mind case.

    Args:
        outputs: files and folders that the command makes, whether they are there or not.
        inputs: files and folders that it reads; those that are missing are left to who reads them.
        variable: the setting that a user would change to write elsewhere.
    """
    read = {path: _places(path) for given in inputs if str(given) and there(given) for path in _linked(Path(given))}
    for output in map(Path, outputs):
        above = _places(output)
        for path, around in read.items():
            if there(output) and above[0] == around[0]:
                problem = f"would be written over {path}, which is read"
            elif around[0] in above:
                problem = f"would be written into {path}, which is read"
            elif there(output) and above[0] in around:
                problem = f"would get outputs, and holds {path}, which is read"
            else:
                continue
            raise VovError(f"{output}: {problem}; choose another `{variable}`")


def _places(path: Path) -> list[tuple[int, int]]:
    """What the disk calls a path and every folder above it, from the inside out; without those that are not there."""
    real = Path(os.path.realpath(path))
    found = [place.stat() for place in (real, *real.parents) if there(place)]
    return [(one.st_dev, one.st_ino) for one in found]


def _linked(path: Path) -> list[Path]:
    """A path, and of a folder also what links in it lead to."""
    links = [one for one in path.iterdir() if one.is_symlink() and there(one)] if path.is_dir() else []
    return [path, *links]


@contextmanager
def locked(folder: str | Path, name: str = ".lock", variable: str = "out_dir") -> Iterator[None]:
    """Holds `folder` for one run; a second run gets a VovError. The lock dies with its process, however that ends.

    Temporary files that dead processes of this machine left in the folder are removed; a folder that was made for this
    and stays empty too. name: of the lock's file; runs with different names may share a folder.
    """
    folder = Path(folder)
    made = [one for one in (folder, *folder.parents) if not there(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder / name, variable)
    except OSError as error:
        raise write_problem(error, folder, variable) or error from error
    with handle:
        try:
            remove_parts(folder)
            yield
        finally:
            with suppress(OSError):  # the folder may have vanished, or hold results
                (folder / name).unlink()
                for one in made:
                    one.rmdir()


def _lock(path: Path, variable: str) -> IO[str]:
    """The open, locked file at `path`."""
    while True:
        handle = path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                break
            handle.close()  # the last holder removed it between our two calls
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            handle.close()
            raise VovError(f"{path.parent}: another run is using it (process {holder}); wait for it, or choose another "
                           f"`{variable}`") from error
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle


def remove_parts(folder: Path) -> None:
    """Removes temporary files of `atomic` below `folder` whose process, on this machine, is no longer there."""
    for path in folder.rglob(".vov-*.part*"):
        found = PART.fullmatch(path.name)
        if found and found[1] == _host() and not Path(f"/proc/{found[2]}").exists():
            path.unlink(missing_ok=True)


def content_hash(*parts: object) -> str:
    """32 hexadecimal digits that depend on every part (bytes-like, or anything with a stable repr)."""
    digest = hashlib.sha256()
    for part in parts:
        data = bytes(part) if isinstance(part, bytes | bytearray | memoryview) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def path_hash(path: str | Path) -> str:
    """`content_hash` of a file, or of the names and contents of all files below a folder, wherever it is."""
    path = Path(path)
    if not path.is_dir():
        return content_hash(path.read_bytes())
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    return content_hash(*(part for p in files for part in (p.relative_to(path).as_posix(), p.read_bytes())))
