"""The record inside the page, as a link that saves it: works without scripts."""

from __future__ import annotations

import base64
import gzip

import msgspec

from ..record.schema import Record

LARGE = 4 * 2**20  # bytes above which packing tightly takes too long


def link(record: Record) -> str:
    """The record as a gzipped JSON file in a `data:` address; the same record gives the same."""
    content = msgspec.json.encode(record)
    level = 9 if len(content) < LARGE else 1
    packed = gzip.compress(content, compresslevel=level, mtime=0)
    return f"data:application/gzip;base64,{base64.b64encode(packed).decode()}"
