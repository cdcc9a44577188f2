"""The JSON schema of the record: the committed file, its descriptions, and what it accepts."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator
from page_records import full
from record_builders import cell, record

import tpprof
from tpprof.reports.json_schema import json_schema
from tpprof.reports.record.environment import CodeOrigins, Environment
from tpprof.reports.record.gpu import GpuDescription, GpuProcess, GpuState
from tpprof.reports.record.schema import Record

FILE = Path(tpprof.__file__).parent / "docs" / "record.schema.json"


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    made = json.loads(json_schema())
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def test_the_file_is_what_the_structs_give() -> None:
    assert FILE.read_bytes() == json_schema(), "run `make schema`, and commit the file"


def test_every_struct_and_every_field_is_described(schema: Draft202012Validator) -> None:
    defined = schema.schema["$defs"]
    silent = [name for name, struct in defined.items() if not struct.get("description")]
    silent += [
        f"{name}.{field}"
        for name, struct in defined.items()
        for field, told in struct["properties"].items()
        if not told.get("description") and "$ref" not in told  # its struct is described
    ]
    assert silent == []
    assert {"Record", "Cell", "Sample", "Environment", "GpuDescription"} <= set(defined)


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
def test_a_record_is_as_the_schema_says(run: Record, schema: Draft202012Validator) -> None:
    assert list(schema.iter_errors(json.loads(msgspec.json.encode(run)))) == []


def test_what_is_no_record_is_not(schema: Draft202012Validator) -> None:
    plain = json.loads(msgspec.json.encode(watched()))
    plain["schema"], plain["surprise"] = 3, 1
    plain["cells"][1]["samples"][2]["latency"] = 0
    plain["cells"][1]["samples"][3]["turn"] = -1
    plain["environment"]["gpu"]["ecc"] = "yes"
    del plain["model"]["name"]
    found = {error.json_path: error.message for error in schema.iter_errors(plain)}
    assert found.pop("$.environment.gpu").endswith("is not valid under any of the given schemas")
    assert found == {
        "$": "Additional properties are not allowed ('surprise' was unexpected)",
        "$.cells[1].samples[2].latency": "0 is less than or equal to the minimum of 0",
        "$.cells[1].samples[3].turn": "-1 is less than the minimum of 0",
        "$.model": "'name' is a required property",
        "$.schema": "4 was expected",
    }
