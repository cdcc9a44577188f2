"""The paper's Table 7 beside ours, as Markdown: FLOPs by every convention and schedule that it may
have meant, KV bytes nominal and real, latency ratios as measured here.

FLOPs and KV are planned on llava-next-7b. Latency is that of a record (--record), or of the default
model on this machine, measured now.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import tpprof
from tpprof.methods import parse
from tpprof.profiler.cost.conventions import convention_named
from tpprof.profiler.cost.planning import Planned, Planner
from tpprof.reports import units
from tpprof.reports.analysis.published import KEPT, TABLE7, PublishedRow
from tpprof.reports.analysis.summary import Row, rows
from tpprof.reports.record.files import load
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import Workload
from tpprof.reports.text.table import Column, Table

MODEL = "llava-next-7b"
CONVENTIONS = ("default", "prefill", "causal", "fastv", "sparsevlm")
SCHEDULES = (
    ("fastv:layer=1,keep=320", "one whole layer, 320 kept: Algorithm 1 read from 1"),
    ("fastv:keep=320", "two whole layers, 320 kept: the released code"),
    ("fastv:layer=3,keep=320", "three whole layers, 320 kept: the released demo"),
    ("fastv:keep=149", "two whole layers, 320 on average"),
    ("fastv:layer=3,keep=55", "three whole layers, 320 on average"),
    ("sparsevlm:keep=320", "version 1.0, four stages, 320 on average"),
    ("sparsevlm:keep=320,version=1.5", "version 1.5, three stages, 320 on average"),
    ("mustdrop:keep=320", "merged in the tower, four stages, 320 on average"),
)


@dataclass(frozen=True)
class Schedule:
    """A schedule that the paper may have meant, and what it costs."""

    spec: str
    about: str
    planned: Planned


METHODS = [row.method for row in TABLE7 if row.method != "vanilla"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="measured latencies; default: measure now")
    options = parser.parse_args()
    for after, text in ((25, 60), (35, 70)):
        print(f"### FLOPs, % of vanilla, with {text} text tokens\n")
        print(flops(Workload(text_tokens=(35, after))))
    print("### KV cache after prefill, MB\n")
    print(kv(Workload()))
    record = load(options.record) if options.record else tpprof.compare(METHODS)
    request = record.request
    print(
        f"### Latency over vanilla's: {record.model.name} on {record.environment.device}, "
        f"{request.visual} visual tokens\n"
    )
    print(latency(record))


def flops(workload: Workload) -> str:
    """One line per schedule, one column per convention, and what the paper prints."""
    planner = Planner(MODEL, workload, conventions=[convention_named(name) for name in CONVENTIONS])
    whole = planner.plan(parse("vanilla"))
    printed = {row.method: row.flops for row in TABLE7}

    def share(name: str) -> Column[Schedule]:
        return Column(
            name, lambda row: units.percent(row.planned.counted[name] / whole.counted[name])
        )

    columns: list[Column[Schedule]] = [
        Column("schedule", lambda row: row.spec, kind="words"),
        Column("meaning", lambda row: row.about, kind="words"),
        *map(share, CONVENTIONS),
        Column("paper", lambda row: units.percent(printed[parse(row.spec).name])),
    ]
    rows = [Schedule(spec, about, planner.plan(parse(spec))) for spec, about in SCHEDULES]
    return Table(columns, rows).to_markdown()


def kv(workload: Workload) -> str:
    """The paper's nominal figure, and the bytes that the caches really hold, text included."""
    planner = Planner(MODEL, workload, conventions=[convention_named("paper-kv")])

    def planned(row: PublishedRow) -> Planned:
        spec = row.method if row.method == "vanilla" else f"{row.method}:keep={KEPT}"
        return planner.plan(parse(spec))

    columns: list[Column[PublishedRow]] = [
        Column("method", lambda row: row.method, kind="words"),
        Column("paper", lambda row: units.megabytes(row.kv_bytes)),
        Column(
            "0.525 MB x nominal budget",
            lambda row: units.megabytes(planned(row).counted["paper-kv"]),
        ),
        Column("real, by layer, text included", lambda row: units.megabytes(planned(row).kv_bytes)),
    ]
    return Table(columns, TABLE7).to_markdown()


def latency(record: Record) -> str:
    """The paper's ratios, and those measured under every attention policy of the record."""
    policies = list(dict.fromkeys(c.attention for c in record.cells if c.reads_attention))
    measured: dict[tuple[str, str], Row] = {
        (row.cell.name, row.cell.attention): row for row in rows(record) if row.speedup
    }

    def ratio(method: str, policy: str) -> str:
        row = measured.get((method, policy))
        gain = row.speedup if row else None
        if gain is None or gain.low is None or gain.high is None:
            return units.NA
        return f"{1 / gain.value:.2f} ({1 / gain.high:.2f} to {1 / gain.low:.2f})"

    def share(method: str) -> str:
        shares = [row.flops_share for (name, _), row in measured.items() if name == method]
        return units.percent(shares[0] if shares else None)

    def under(policy: str) -> Column[PublishedRow]:
        return Column(policy, lambda row: ratio(row.method, policy))

    columns: list[Column[PublishedRow]] = [
        Column("method", lambda row: row.method, kind="words"),
        Column("paper", lambda row: f"{row.seconds / TABLE7[0].seconds:.2f}"),
        *map(under, policies),
        Column("FLOPs here", lambda row: share(row.method)),
    ]
    return Table(columns, TABLE7[1:]).to_markdown()


if __name__ == "__main__":
    main()
