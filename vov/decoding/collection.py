"""A θ that many files share: a .vovd file, which the files name by a hash of its bytes and do not hold.

A .vovd file is a .vov file: the same header (all that the adapter takes), the same coded symbols, the same bounds for
files from strangers; its one item's caption is the collection's name. So it is read, shown and exported as those are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vov import VovError, bitstream
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import adapted
from vov.bitstream import Bitstream
from vov.bitstream.container import COLLECTION_BYTES, MAX_FILE
from vov.model.backbone import Backbone
from vov.model.cache import cache_folder
from vov.runtime.files import write_bytes

log = logging.getLogger(__name__)
SUFFIX = ".vovd"
MOST = 4096  # files of a folder that are looked at


@dataclass(frozen=True, eq=False)
class Collection:
    """A shared θ: where it was found, its name (16 bytes of SHA-256 of the file), what the file holds."""

    path: Path
    name: bytes
    stream: Bitstream
    data: bytes


def read(path: str | Path) -> Collection:
    """A .vovd file. Raises VovError when it is damaged, or holds no single θ."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise VovError(f"`collection`={path}: is above 256 MiB; this is no .vovd file")
        data = path.read_bytes()
    except OSError as error:
        raise VovError(f"`collection`={path}: cannot be read ({error.strerror}); give a {SUFFIX} file of "
                       "scripts/fit_collection.sh") from error
    stream = bitstream.from_bytes(data, str(path))
    if stream.sequence or stream.noise is not None or stream.collection:
        raise VovError(f"`collection`={path}: is a finished clip or picture, not the θ of a collection; give a "
                       f"{SUFFIX} "
                       "file of scripts/fit_collection.sh")
    return Collection(path, name_of(data), stream, data)


def name_of(data: bytes) -> bytes:
    """What files call a .vovd file with these bytes."""
    return hashlib.sha256(data).digest()[:COLLECTION_BYTES]


def remember(path: str) -> bytes:
    """The name of the collection at `path` ("" for none), which is kept in the cache for decoders on this machine."""
    if not path:
        return b""
    found = read(path)
    place = cache_folder() / "collections" / f"{found.name.hex()}{SUFFIX}"
    try:
        if not place.is_file():
            write_bytes(place, found.data)
    except (VovError, OSError) as error:
        log.warning("not cached: %s", error)
    return found.name


def find(name: bytes, folder: str = "", beside: str | Path = "") -> Collection:
    """The collection of this name: in `folder` (COLLECTION; of a .vovd file the folder that it is in), beside a file,
    in the cache.

    Raises VovError that names it when it is nowhere.
    """
    given = Path(folder)
    places = [given.parent if given.suffix == SUFFIX else given] if folder else []
    places += [Path(beside).parent] if beside else []
    places.append(cache_folder() / "collections")
    for place in places:
        with suppress(OSError):
            for path in sorted(place.glob(f"*{SUFFIX}"))[:MOST]:
                if path.stat().st_size <= MAX_FILE and name_of(path.read_bytes()) == name:
                    return read(path)
    raise VovError(f"{beside or 'the file'}: collection {name.hex()} is missing: no {SUFFIX} file with this hash in "
                   f"{', '.join(map(str, places))}; get it from whoever made the file and set `collection` to it")


@contextmanager
def applied(name: bytes, backbone: Backbone, source: str | Path = "", folder: str = "") -> Iterator[None]:
    """Within it, the model is adapted by the collection of this name; an empty one changes nothing.

    A θ of the file or of a scene is put on top (`Adapter`s nest); both add up. source, folder: see `find`.

    Raises VovError when the collection is missing, or was made for another model.
    """
    if not name:
        yield
        return
    found = find(name, folder, source)
    header, where = found.stream.header, str(found.path)
    backbone.refuse_other_tree(header, where)
    if not backbone.recognises(header.fingerprint):
        raise VovError(f"{where}: was fitted on {header.model_id}, fingerprint {header.fingerprint.hex()}, not on the "
                       "model at hand; give the collection of this model")
    with adapted(backbone, AdapterSpec.of(header, where), found.stream.symbols, header.step):
        yield
