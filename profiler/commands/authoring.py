"""`tpprof check` and `tpprof new-method`: for authors of methods."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ...reports.outputs import Output, require_folder, require_outputs, write
from ...reports.sanitize import one_line, say
from .options import PluginOption, fail
from .output import OverwriteOption
from .supervised import guarded

BROKEN = 1
"""Exit code where a method breaks the contract."""


@guarded
def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="fastv, or fastv:keep=1/3.")],
    plugin: PluginOption = None,
) -> None:
    """Hold a method against the contract, on a small model of each architecture; nothing is timed.

    Exit code 1 where it breaks it, 0 where it holds.
    """
    from ...methods import load_plugins, parse

    load_plugins(plugin or [])
    chosen = parse(method)
    from ..authoring.contract import LAST, findings, title

    print(f"{one_line(title(chosen))} on models of 8 layers, float32, cpu")
    broken, unmet, told, held = 0, 0, set[str](), dict[str, list[str]]()
    for finding in findings(chosen):
        name = finding.model
        if finding.unsupported:
            print(f"  {name:20} cannot run there: {one_line(finding.unsupported)}", flush=True)
        elif finding.unmet:
            unmet += 1
            print(f"  {name:20} not checked: {one_line(finding.unmet)}", flush=True)
        elif finding.fault:
            broken += 1
            fault = one_line(finding.fault)
            again = "the same" if fault in told else fault
            told.add(fault)
            print(f"  {name:20} BROKEN {finding.check}: {again}", flush=True)
        else:
            held.setdefault(name, []).append(finding.check)
        if finding.check == LAST and name in held:
            print(f"  {name:20} holds: {', '.join(held[name])}", flush=True)
    if broken:
        print(f"BROKEN: {broken} of what every method promises (docs/methods.md)")
        raise typer.Exit(BROKEN)
    if unmet and not held:
        fail(
            f"{method}: its knobs cannot be met on these models, of 8 layers and a small picture; "
            "leave them out, or type such as fit"
        )
    if not held:
        print("no architecture runs it: nothing was checked")
        raise typer.Exit(BROKEN)
    print("all that was checked holds; its selection against the paper is yours to test")


@guarded
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in `tpprof compare NAME`.")],
    folder: Annotated[Path, typer.Option(help="Where the two files are written.")] = Path(),
    overwrite: OverwriteOption = False,
) -> None:
    """Write the file of a new method, which works as it stands, and its test."""
    from ...methods import names
    from ...methods.contract.registry import NAME
    from ..authoring.template import files

    if not NAME.fullmatch(name):
        fail(f"{name!r} is no name of a method: a letter, then letters, digits, '-', '_', '.'")
    if name in names():
        fail(f"method {name!r} is there already: choose another name")
    require_folder("--folder", folder)
    module = next(iter(files(name))).removesuffix(".py")
    if _is_elsewhere(module, folder):
        fail(f"{module}.py would hide the module {module} from Python: choose another name")
    texts = {folder / file: text for file, text in files(name).items()}
    require_outputs((Output("the file", path, "text") for path in texts), overwrite=overwrite)
    for path, text in texts.items():
        write(path, text.encode(), "text", overwrite=overwrite)
        say(f"{path} is written")
    say(f"then: tpprof check {name} --plugin {next(iter(texts))}")


def _is_elsewhere(module: str, folder: Path) -> bool:
    """Whether Python knows a module of the name that is not a file in the folder."""
    found = importlib.util.find_spec(module)
    if found is None or found.loader is None:  # a folder without __init__.py hides nothing
        return False
    return not (found.origin and found.has_location) or (
        Path(found.origin).parent.resolve() != folder.resolve()
    )
