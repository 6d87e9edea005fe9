"""The .vov file: symbols to bytes and back. Everything that other rooms need of it, by one name.

    container   the file: header, sections, CRCs, bytes of every part      header      its fields and the items
    symbols     integers by rANS or packed                                 noise_code  the section of coded noise
    reader      bounded reading of bytes
"""

from vov.bitstream.container import (
    MAGIC,
    SKIPPABLE,
    Bitstream,
    PartSizes,
    describe,
    from_bytes,
    parts,
    read,
    to_bytes,
    write,
)
from vov.bitstream.header import Header, Item

__all__ = ["MAGIC", "SKIPPABLE", "Bitstream", "Header", "Item", "PartSizes", "describe", "from_bytes", "parts", "read",
           "to_bytes", "write"]
