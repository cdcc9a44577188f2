"""A gate as a table, Markdown, JSON and JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

import msgspec

from ..outputs import append
from ..record.base import decode_versioned
from ..sanitize import for_json, for_markdown, for_xml
from ..text.cells import CELL
from ..text.screen import Screen
from ..text.table import Column, Table, Tone
from .verdicts import Gate, Judged, Verdict

SCHEMA = 1
STYLES = {
    Verdict.FAIL: "bold red",
    Verdict.NO_VERDICT: "bold magenta",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.ACCEPTED: "cyan",
    Verdict.IMPROVED: "green",
    Verdict.PASS: "green",
    Verdict.NOT_JUDGED: "dim",
}
TONES: dict[Verdict, Tone] = {
    Verdict.FAIL: "bad",
    Verdict.NO_VERDICT: "warned",
    Verdict.INCONCLUSIVE: "warned",
    Verdict.ACCEPTED: "good",
    Verdict.IMPROVED: "good",
    Verdict.PASS: "good",
    Verdict.NOT_JUDGED: "",
}
MEANINGS = {
    Verdict.FAIL: "a regression",
    Verdict.NO_VERDICT: "nothing could be judged, which is no pass",
    Verdict.INCONCLUSIVE: "neither a regression nor its absence is shown: more pairs, or a quieter "
    "machine",
    Verdict.ACCEPTED: "what changed is in the baseline now: commit it",
    Verdict.IMPROVED: "improved: update the baseline to hold it",
    Verdict.PASS: "no regression",
    Verdict.NOT_JUDGED: "",
}
ELSEWHERE = {
    Verdict.ACCEPTED: "no slow-down, and counts that changed as they were meant to",
    Verdict.IMPROVED: "better than before, and no regression",
}
"""What it means where there is no baseline to update."""
LOUD = (Verdict.FAIL, Verdict.NO_VERDICT, Verdict.INCONCLUSIVE, Verdict.ACCEPTED, Verdict.IMPROVED)


def gate_table(gate: Gate, rows: Sequence[Judged] | None = None) -> Table[Judged]:
    """What was judged, row by row: all of it, or these rows."""
    return Table(COLUMNS, gate.rows if rows is None else rows)


COLUMNS: list[Column[Judged]] = [
    Column(
        "cell",
        lambda r: r.cell,
        {"cell": lambda r: r.cell},
        CELL,
        "words",
    ),
    Column(
        "metric",
        lambda r: r.metric,
        {"metric": lambda r: r.metric},
        "What is compared: a count, or a time.",
        "words",
        under="cell",
    ),
    Column(
        "verdict",
        lambda r: r.verdict.value,
        {"verdict": lambda r: r.verdict.value},
        "FAIL: a regression; NO VERDICT: nothing could be judged; INCONCLUSIVE: neither a "
        "regression nor its absence is shown. The last two are no pass.",
        "words",
        tone=lambda r: TONES[r.verdict],
    ),
    Column(
        "before",
        lambda r: r.before,
        {"before": lambda r: r.before},
        "Of the baseline, or of the base.",
    ),
    Column(
        "after",
        lambda r: r.after,
        {"after": lambda r: r.after},
        "Of what is judged.",
        under="before",
    ),
    Column(
        "change",
        lambda r: r.change,
        {"change": lambda r: r.change},
        "From before to after; of times with their interval.",
        under="verdict",
    ),
    Column(
        "rule",
        lambda r: r.rule,
        {"rule": lambda r: r.rule},
        "By which rule the verdict was given.",
        "words",
    ),
]


def headline(gate: Gate) -> str:
    """The verdict of the gate in one sentence."""
    counts = [(v, sum(row.verdict is v for row in gate.rows)) for v in Verdict]
    listed = ", ".join(f"{count} {verdict.value}" for verdict, count in counts if count)
    meaning = MEANINGS[gate.verdict]
    if gate.kind != "exact":
        meaning = ELSEWHERE.get(gate.verdict, meaning)
    if gate.verdict is Verdict.INCONCLUSIVE and gate.verdict not in {r.verdict for r in gate.rows}:
        meaning = "no regression in what was judged (--accept-unjudged takes that for a pass)"
    unjudged = f"; NOT JUDGED: {', '.join(gate.unjudged)}" if gate.unjudged else ""
    return f"{gate.verdict.value}: {meaning}{unjudged}; {gate.subject} ({listed})"


def print_gate(gate: Gate, screen: Screen) -> None:
    """Print the table, what a reader must know, and the verdict."""
    if gate.rows:
        screen.print_grid(gate_table(gate))
    for note in gate.notes:
        screen.print_line(note, "dim")
    screen.print_line(headline(gate), STYLES[gate.verdict], whole=True)


def as_summary(gate: Gate) -> str:
    """Markdown for the summary of a CI job: the verdict, what is not a plain pass, and, folded
    up, the rest."""
    loud = [row for row in gate.rows if row.verdict in LOUD]
    quiet = [row for row in gate.rows if row.verdict not in LOUD]
    text = f"### tpprof gate: {gate.verdict.value}\n\n{for_markdown(headline(gate))}\n\n"
    if loud:
        text += gate_table(gate, loud).to_markdown() + "\n"
    text += "".join(f"> {for_markdown(note)}\n\n" for note in gate.notes)
    if quiet:
        title = f"{len(quiet)} rows without a finding"
        table = gate_table(gate, quiet).to_markdown()
        text += f"<details><summary>{title}</summary>\n\n{table}\n</details>\n\n"
    return text


def as_json(gate: Gate) -> bytes:
    """Everything, for programs."""
    plain = {
        "schema": SCHEMA,
        "kind": gate.kind,
        "subject": gate.subject,
        "verdict": gate.verdict.value,
        "exit_code": gate.code,
        "accept_unjudged": gate.accept_unjudged,
        "notes": gate.notes,
        "rows": [msgspec.to_builtins(row) for row in gate.rows],
    }
    content = msgspec.json.format(msgspec.json.encode(plain), indent=1)
    return for_json(content.decode()).encode() + b"\n"


def from_json(content: bytes) -> Gate:
    """The gate that `as_json` wrote; raises RecordError for anything else."""
    saved = decode_versioned(content, _Saved, SCHEMA, "this", "gate's JSON", "judge again")
    return Gate(saved.kind, saved.subject, saved.rows, saved.notes, saved.accept_unjudged)


class _Saved(msgspec.Struct):
    schema: int
    kind: str
    subject: str
    rows: list[Judged]
    notes: list[str]
    accept_unjudged: bool = False


def as_junit(gate: Gate) -> bytes:
    """One test case for each row: a failure for FAIL, an error for NO VERDICT, skipped where it is
    inconclusive or not judged."""
    kinds = {
        Verdict.FAIL: "failure",
        Verdict.NO_VERDICT: "error",
        Verdict.INCONCLUSIVE: "skipped",
        Verdict.NOT_JUDGED: "skipped",
    }
    found = [kinds.get(row.verdict) for row in gate.rows]
    counts = {
        "tests": str(len(found)),
        "failures": str(found.count("failure")),
        "errors": str(found.count("error")),
        "skipped": str(found.count("skipped")),
        "time": "0",
    }
    suites = Xml.Element("testsuites", {"name": "tpprof gate", **counts})
    suite = Xml.SubElement(suites, "testsuite", {"name": f"tpprof gate {gate.kind}", **counts})
    for row, kind in zip(gate.rows, found, strict=True):
        identity = {"classname": for_xml(f"tpprof.gate.{row.cell}"), "name": for_xml(row.metric)}
        case = Xml.SubElement(suite, "testcase", {**identity, "time": "0"})
        text = for_xml(
            f"{row.verdict.value}: {row.before} -> {row.after} ({row.change}); {row.rule}"
        )
        if kind is None:
            continue
        more = {} if kind == "skipped" else {"type": row.verdict.value}
        Xml.SubElement(case, kind, {"message": text, **more}).text = text
    if gate.notes:
        Xml.SubElement(suite, "system-out").text = for_xml("\n".join(gate.notes))
    Xml.indent(suites)
    content: bytes = Xml.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def append_summary(gate: Gate, path: Path) -> None:
    """Append the summary to a file, as $GITHUB_STEP_SUMMARY wants it; raises OutputError where it
    cannot be written."""
    append(path, as_summary(gate).encode())
