"""What a plug-in can do to be let through by the gate, and what it gets: see docs/gate.md."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command import PLUGIN, RUN, SMALL, in_this_process

from tpprof.profiler.gate.exact import check_baseline, update_baseline
from tpprof.profiler.run.isolated import SILENTLY
from tpprof.reports.gate.verdicts import Gate, Verdict
from tpprof.reports.record.files import load
from tpprof.reports.record.spec import Subject

pytestmark = pytest.mark.usefixtures("warm_children")

HONEST = PLUGIN.read_text()
FUTURE = "from __future__ import annotations\n"
FAKE = """
import glob, tempfile
for folder in glob.glob(tempfile.gettempdir() + "/tpprof-*"):
    open(folder + "/answer", "w").write("0 2\\n{}")
print("PASS: no regression")
import os; os._exit(0)
"""
SILENTLY_ENDED, ASKED = "ended the process (exit code 0)", "it would end the program"
AT_IMPORT = {
    "sys.exit(0)": ("import sys; sys.exit(0)", ASKED),
    "SystemExit": ("raise SystemExit", ASKED),
    "os._exit(0)": ("import os; os._exit(0)", SILENTLY_ENDED),
    "a fake answer": (FAKE, SILENTLY_ENDED),
    "another program": ("import os; os.execv('/bin/true', ['true'])", SILENTLY_ENDED),
    "a signal": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
    "a timer": (
        "import os, threading; threading.Timer(0.2, os._exit, (0,)).start()",
        SILENTLY_ENDED,
    ),
    "atexit": ("import atexit, os; atexit.register(os._exit, 0)", SILENTLY_ENDED),
    "a BaseException": ("class Skipped(BaseException): pass\nraise Skipped", ASKED),
}
"""What a plug-in does as it is imported, behind which nothing is a verdict, and what is said."""


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, warm_children: None) -> Path:
    folder = tmp_path_factory.mktemp("cheats")
    plugin = folder / "mine.py"
    plugin.write_text(HONEST)
    update_baseline(folder / "b.json", small(["loudest"], plugin))
    assert judged(folder / "b.json", HONEST).verdict is Verdict.PASS
    return folder / "b.json"


def small(methods: list[str], plugin: Path) -> Subject:
    return Subject.of(
        methods=methods,
        model="tiny-llava",
        device="cpu",
        attention=["rows"],
        visual_tokens=16,
        text_tokens=(1, 1),
        new_tokens=1,
        plugin=[str(plugin)],
    )


def judged(baseline: Path, plugin: str) -> Gate:
    (baseline.parent / "mine.py").write_text(plugin)
    return check_baseline(baseline)


def at_import(code: str) -> str:
    """The honest plug-in, which does this first. It has to be a program still: what cannot be
    compiled cheats nobody."""
    plugin = HONEST.replace(FUTURE, f"{FUTURE}{code}\n")
    compile(plugin, "mine.py", "exec")
    assert plugin != HONEST
    return plugin


def told(gate: Gate) -> str:
    return "\n".join(f"{row.verdict.value} {row.metric}: {row.rule}" for row in gate.rows)


@pytest.mark.parametrize("cheat", AT_IMPORT)
def test_what_ends_the_process_at_import_has_no_verdict(
    cheat: str, baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the fake one looks for it
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code, reason = AT_IMPORT[cheat]
    gate = judged(baseline, at_import(code))
    assert gate.code == 3, told(gate)
    assert len(gate.rows) == 1
    assert reason in gate.rows[0].rule


IN_PLAN = "        return Plan([Stage(Entering(3), KEEP)])\n"
IN_SELECT = "        return top(view.states.norm(dim=-1), KEEP)\n"


@pytest.mark.parametrize(
    ("place", "code", "wanted"),
    [
        (IN_PLAN, "import os; os._exit(0)", 3),
        (IN_PLAN, "import sys; sys.exit(0)", 3),
        (IN_PLAN, "raise RuntimeError('no plan')", 3),
        (IN_SELECT, "import os; os._exit(0)", 3),
        (IN_SELECT, "import sys; sys.exit(0)", 1),
    ],
)
def test_what_ends_the_process_later_has_no_verdict_or_fails(
    place: str, code: str, wanted: int, baseline: Path
) -> None:
    gate = judged(baseline, HONEST.replace(place, f"        {code}\n{place}"))
    assert gate.code == wanted, told(gate)


WORSE = {
    "more tokens from the fourth request on": (
        IN_SELECT,
        "        calls.append(1)\n"
        "        return top(view.states.norm(dim=-1), KEEP + (len(calls) > 3))\n",
    ),
    "more products from the fourth request on": (
        IN_SELECT,
        "        calls.append(1)\n"
        "        if len(calls) > 3:\n"
        "            torch.eye(64) @ torch.eye(64)\n" + IN_SELECT,
    ),
    "800 MB of the host": (
        IN_SELECT,
        "        held = torch.ones(800 * 2**20, dtype=torch.uint8)\n" + IN_SELECT,
    ),
    "NaN": (IN_SELECT, "        view.states.mul_(float('nan'))\n" + IN_SELECT),
    "meta tensors": (
        IN_SELECT,
        "        return Keep(torch.zeros(1, KEEP, dtype=torch.int64, device='meta'))\n",
    ),
    "meta tensors from the fourth request on": (
        IN_SELECT,
        "        calls.append(1)\n"
        "        keep = top(view.states.norm(dim=-1), KEEP)\n"
        "        device = 'meta' if len(calls) > 3 else 'cpu'\n"
        "        return Keep(keep.index.to(device))\n",
    ),
}


def test_what_got_worse_is_no_pass(tmp_path: Path) -> None:
    """One method for each way, all in one plug-in."""
    plugin = tmp_path / "mine.py"
    plugin.write_text(ways(worse=False))
    names = [f"way{number}" for number in range(len(WORSE))]
    path = tmp_path / "b.json"
    update_baseline(path, small(names, plugin))
    plugin.write_text(ways(worse=True))
    gate = check_baseline(path)
    for name, way in zip(names, WORSE, strict=True):
        verdicts = {row.verdict for row in gate.rows if row.cell == name}
        assert verdicts & {Verdict.FAIL, Verdict.NO_VERDICT}, way
    verdicts = {row.verdict for row in gate.rows if row.cell == "vanilla"}
    assert verdicts == {Verdict.PASS}, told(gate)


def ways(*, worse: bool) -> str:
    """A plug-in with a method for each way to be worse, and as it was before."""
    head, _, rest = HONEST.partition('@register("loudest")')
    method = rest.partition("@register")[0]
    methods = []
    for number, (place, code) in enumerate(WORSE.values()):
        own = method.replace(place, code.replace("calls", f"calls{number}")) if worse else method
        assert (own != method) is worse
        named = f'calls{number} = []\n\n\n@register("way{number}")' + own
        methods.append(named.replace("class Loudest", f"class Way{number}"))
    return head + "".join(methods)


def test_a_baseline_without_methods_has_no_verdict(baseline: Path) -> None:
    content = baseline.read_bytes()
    lines = content.decode().replace('"methods": [\n    "loudest"\n   ]', '"methods": []')
    assert lines.encode() != content
    empty = baseline.parent / "empty.json"
    empty.write_text(lines)
    gate = check_baseline(empty)
    assert (gate.code, "names no method" in told(gate)) == (3, True)
    null = baseline.parent / "null.json"
    null.write_text(_without_counted_flops(content.decode()))
    gate = judged(null, HONEST)
    assert gate.code == 3, told(gate)


def _without_counted_flops(text: str) -> str:
    first, _, rest = text.partition('"counted_flops": {')
    return first + '"counted_flops": null' + rest.partition("}")[2]


@pytest.mark.parametrize("cheat", ["os._exit(0)", "a timer"])
def test_pytest_does_not_end_well_with_it(cheat: str, baseline: Path) -> None:
    (baseline.parent / "mine.py").write_text(at_import(AT_IMPORT[cheat][0]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tpprof-gate", str(baseline)],
        cwd=baseline.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert "NO VERDICT" in done.stdout


COMPARE = ["compare", "loudest", "--plugin", "mine.py", *SMALL, "--out", "r.json"]


def compared(plugin: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(plugin)
    return subprocess.run([*RUN, *COMPARE], cwd=folder, capture_output=True, text=True)


def test_compare_does_not_end_well_with_it_and_loses_nothing(tmp_path: Path) -> None:
    fourth = (
        "        calls.append(1)\n        if len(calls) > 4:\n            import os; os._exit(0)\n"
    )
    plugin = HONEST.replace("KEEP = 7", "KEEP = 7\ncalls = []")
    plugin = plugin.replace(IN_SELECT, fourth + IN_SELECT)
    done = compared(plugin, tmp_path)
    assert done.returncode == 1, done.stdout
    assert "ended the process before all was measured" in done.stderr
    record = load(tmp_path / "r.json")
    assert record.cells[0].samples, "vanilla is kept"

    for code in ("import sys; sys.exit(0)", "import os; os._exit(0)"):
        early = tmp_path / code[-8:-3]
        early.mkdir()
        done = compared(at_import(code), early)
        assert done.returncode in (1, 2), code
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("command", ["flops", "tokens", "init", "methods"])
def test_no_other_command_ends_well_with_it(command: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(at_import("import os; os._exit(0)"))
    done = subprocess.run(
        [*RUN, command, "loudest", "--plugin", "mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tpprof: a plug-in ended the process before the result was shown\n"


def test_isolated_cells_that_end_their_process_fail_alone(tmp_path: Path) -> None:
    plugin = HONEST.replace(IN_SELECT, "        import os; os._exit(0)\n")
    (tmp_path / "mine.py").write_text(plugin)
    done = in_this_process(*COMPARE, "--isolate", "--rounds", "1", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    cells = {cell.name: cell for cell in load(tmp_path / "r.json").cells}
    assert cells["loudest"].error == SILENTLY
    assert len(cells["vanilla"].samples) == 1


@pytest.mark.parametrize("closed", ["| true", ">&-", "> /dev/full"])
def test_a_verdict_that_nobody_can_read_is_none(closed: str, tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -c '{RUN[-1]}' gate check none.json {closed}; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 141, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
