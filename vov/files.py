"""Files that appear whole or not at all, and hashes of what is in them."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vov import VovError

REPO = Path(__file__).resolve().parent.parent
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "UTF-8"), (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))  # UTF-16's begins UTF-32's


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path` to write to; on success it is fsynced and renamed to `path`.

    On any error (a full disk among them) the temporary file is removed and `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise VovError(f"{path}: the disk is full; free some space and run the same command again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise VovError(f"{path}: cannot be written ({error.strerror}); choose another OUT_DIR") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def write_json(path: str | Path, value: object) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raises VovError when `path` exists (for a folder: is not empty) and `overwrite` is false."""
    path = Path(path)
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise VovError(f"{path} exists; set OVERWRITE=1 to replace it or choose another output")


def content_hash(*parts: object) -> str:
    """32 hexadecimal digits that depend on every part (bytes-like, or anything with a stable repr)."""
    digest = hashlib.sha256()
    for part in parts:
        data = bytes(part) if isinstance(part, bytes | bytearray | memoryview) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]
