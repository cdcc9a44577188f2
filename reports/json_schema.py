"""The JSON schema of a record, made from its structs: `make schema` writes it to docs."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from .record.schema import SCHEMA, Record

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> bytes:
    """What a record of this version may look like; structs by name, fields in their order."""
    made = msgspec.json.schema(Record)
    defined: dict[str, dict[str, Any]] = made.pop("$defs")
    for struct in defined.values():
        struct["description"] = " ".join(struct["description"].split())
    head = {"$schema": DIALECT, "title": f"A record of tpprof, schema {SCHEMA}"}
    whole = {**head, **made, "$defs": dict(sorted(defined.items()))}
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    sys.stdout.buffer.write(json_schema())
