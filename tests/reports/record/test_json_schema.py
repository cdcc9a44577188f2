"""The JSON schema of the record: the committed file, its descriptions, and what it accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from page_records import full
from record_builders import cell, record

import tpprof
from tpprof.reports.record.environment import CodeOrigins, Environment
from tpprof.reports.record.gpu import GpuDescription, GpuProcess, GpuState
from tpprof.reports.record.json_schema import json_schema
from tpprof.reports.record.schema import Record

FILE = Path(tpprof.__file__).parent / "docs" / "record.schema.json"
BY_OPTIONS = {("Record", "settings"), ("Record", "workload")}
"""What was asked for: the options of `tpprof compare` describe it, and all of Settings."""
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
SAID = {"title", "description", "default", "$ref", "anyOf", "type", "const", "minimum"}
SAID |= {"exclusiveMinimum", "items", "properties", "required", "additionalProperties"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json_schema())
    return made


def test_the_file_is_what_the_structs_give() -> None:
    assert FILE.read_bytes() == json_schema(), "run `make schema`, and commit the file"


def test_every_struct_and_every_field_is_described(schema: dict[str, Any]) -> None:
    silent = [name for name, struct in schema["$defs"].items() if not struct.get("description")]
    silent += [
        f"{name}.{field}"
        for name, struct in schema["$defs"].items()
        for field, told in struct["properties"].items()
        if not told.get("description") and name != "Settings" and (name, field) not in BY_OPTIONS
    ]
    assert silent == []
    assert {"Record", "Cell", "Sample", "Environment", "GpuDescription"} <= set(schema["$defs"])


def watched() -> Record:
    """A record in which every struct occurs."""
    run = full()
    state = GpuState(sm_clock_hz=1e9, others=[GpuProcess(pid=7)], reasons={"throttled": "no"})
    run.processes[0].gpu_before = run.processes[0].gpu_after = state
    run.environment = Environment(
        device="a GPU",
        device_type="cuda",
        packages={"torch": "2.13.0", "pynvml": None},
        gpu=GpuDescription(name="a GPU", ecc=True),
        code=CodeOrigins(origins={"python": "/python"}),
    )
    return run


@pytest.mark.parametrize(
    "run", [watched(), full(), record(), record(cell("vanilla", "rows", 1.0, 10, samples=[]))]
)
def test_a_record_is_as_the_schema_says(run: Record, schema: dict[str, Any]) -> None:
    assert list(problems(json.loads(msgspec.json.encode(run)), schema, schema["$defs"])) == []


def test_what_is_no_record_is_not(schema: dict[str, Any]) -> None:
    """The check below sees what it should."""
    plain = json.loads(msgspec.json.encode(watched()))
    plain["schema"], plain["surprise"] = 3, 1
    plain["cells"][1]["samples"][2]["latency"] = 0
    plain["cells"][1]["samples"][3]["turn"] = -1
    plain["environment"]["gpu"]["ecc"] = "yes"
    del plain["model"]["name"]
    assert sorted(problems(plain, schema, schema["$defs"])) == [
        "$.cells[1].samples[2].latency: 0",
        "$.cells[1].samples[3].turn: -1",
        "$.environment.gpu: no alternative fits",
        "$.model: name is missing",
        "$.schema: 3",
        "$.surprise is unknown",
    ]


def problems(
    value: Any, schema: dict[str, Any], defined: dict[str, Any], at: str = "$"
) -> Iterator[str]:
    """Where `value` breaks the schema: of JSON Schema what ours says, and no more."""
    unknown = set(schema) - SAID - ({"$schema", "$defs"} if at == "$" else set())
    assert not unknown, f"the schema says {unknown} of {at}, which is not checked here"
    if "$ref" in schema:
        target = defined[schema["$ref"].rpartition("/")[2]]
        yield from problems(value, target, defined, at)
    if "anyOf" in schema and all(list(problems(value, o, defined, at)) for o in schema["anyOf"]):
        yield f"{at}: no alternative fits"
    kinds = TYPES.get(schema.get("type", ""), (object,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and int in kinds):
        yield f"{at}: {value}"
        return
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    if (low is not None and value < low) or (above is not None and value <= above):
        yield f"{at}: {value}"
    if value != schema.get("const", value):
        yield f"{at}: {value}"
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), defined, f"{at}[{number}]")
    if isinstance(value, dict) and "$ref" not in schema:
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for name in set(schema.get("required", ())) - set(value):
            yield f"{at}: {name} is missing"
        for name, item in value.items():
            if name not in known and others is False:
                yield f"{at}.{name} is unknown"
            elif name in known or isinstance(others, dict):
                yield from problems(item, known.get(name, others), defined, f"{at}.{name}")
