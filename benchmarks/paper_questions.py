"""The paper's questions about accuracy, asked of seer, or of smol-dino: Tables 1, 4 to 7, and
Figure 2.

    python benchmarks/paper_questions.py --write docs/paper-questions.md
    python benchmarks/paper_questions.py --from docs/paper-questions-seer.json --write PAGE

F1 has 95 % intervals over pictures; differences are on the same pictures. Answers are kept in
--output, and gone on with. What it prints is about this model and these pictures, and no other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

from paper import asking, page  # type: ignore[import-not-found]  # beside this script
from paper.questions import (  # type: ignore[import-not-found]
    Examination,
    of_composed,
    of_drawn,
)
from paper.results import Results, load, to_json  # type: ignore[import-not-found]

from tpprof.methods.contract.errors import InputError
from tpprof.profiler.accuracy.answer_files import digest_of_model
from tpprof.reports.outputs import OutputError, beside
from tpprof.reports.record import files
from tpprof.reports.record.schema import Record
from tpprof.reports.sanitize import say

MOST = 1200
"""Questions of each kind."""


def main() -> None:
    options = _parser().parse_args()
    try:
        results, record = _given(options.given) if options.given else _asked(options)
        print(page.printed(results, record))
        if options.write:
            _write(options.write, results, record)
    except (InputError, OutputError) as error:
        say(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        say("ended; the same command goes on with what was answered")
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="seer", help="smol-dino, or a checkpoint that was trained as seer is"
    )
    parser.add_argument("--bank", type=Path, help="smol-dino: cut-outs and photographs, .npz")
    parser.add_argument("--pictures", type=int, default=32, help="smol-dino: how many are asked of")
    parser.add_argument("--questions", type=int, default=MOST, help="seer: at most, of each kind")
    parser.add_argument("--budgets", type=int, nargs="+", help="144 64; smol-dino: 64")
    parser.add_argument("--output", type=Path, default=Path("runs/paper-questions"))
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes of one thread each"
    )
    parser.add_argument(
        "--from", dest="given", type=Path, help="results that were written: nothing is asked"
    )
    parser.add_argument(
        "--write",
        type=Path,
        help="a page: what lies between its marks of the model is replaced; pictures, results and "
        "the record of Table 7 are written beside it",
    )
    return parser


def _asked(options: argparse.Namespace) -> tuple[Results, Record | None]:
    examination = _examination(options)
    digest = digest_of_model(examination.model) or "unknown"
    most = max(source.most for source in examination.exams.values())
    named = f"{Path(examination.model).name}-{digest[:12]}-{asking.methods_digest()[:12]}-{most}"
    if options.bank:
        named += f"-{hashlib.sha256(options.bank.read_bytes()).hexdigest()[:12]}"
    folder = options.output / named
    asked = asking.Asking(examination, folder, options.workers)
    results = asked.run(_command(options))
    return results, files.load(asked.time()) if examination.timed is not None else None


def _examination(options: argparse.Namespace) -> Examination:
    if options.bank is not None and not options.bank.is_file():
        raise InputError(f"no such file: {options.bank} (docs/accuracy.md says how it is made)")
    if options.model != "smol-dino":
        return of_drawn(options.model, options.questions, options.budgets or (144, 64))
    if options.bank is None:
        raise InputError(
            "smol-dino is asked about composed pictures: give --bank (docs/accuracy.md)"
        )
    return of_composed(options.bank, options.pictures, options.budgets or (64,))


def _command(options: argparse.Namespace) -> str:
    """As it is printed on the page."""
    words = ["python", "benchmarks/paper_questions.py"]
    if options.model != "seer":
        words += ["--model", options.model]
    if options.model != "smol-dino" and options.questions != MOST:
        words += ["--questions", str(options.questions)]
    if options.model == "smol-dino":
        words += ["--bank", "bank.npz", "--pictures", str(options.pictures)]
    if options.budgets:
        words += ["--budgets", *map(str, options.budgets)]
    return " ".join([*words, "--write", "docs/paper-questions.md"])


def _given(path: Path) -> tuple[Results, Record | None]:
    record = page.record_beside(path)
    return load(path), files.load(record) if record.exists() else None


def _write(target: Path, results: Results, record: Record | None) -> None:
    """The page, and what lies beside it."""
    text = page.replaced(target.read_text(), results, record, target.stem)
    path = target.with_name(f"{page.stem_of(results, target.stem)}.json")
    with beside(path) as part:
        part.write_bytes(to_json(results))
    if record is not None:
        files.save(record, page.record_beside(path), overwrite=True)
    page.draw(results, record, target)
    with beside(target) as part:
        part.write_text(text)


if __name__ == "__main__":
    main()
