"""A gate that was broken off and is taken up again: what it measured is not measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.gate.journal import CALIBRATION, GateBegun, Judgement, Ran, read
from ...reports.record.base import RecordError
from ...reports.record.journal import SUFFIX, in_use, is_empty
from ...reports.sanitize import say
from .base_rules import differing


class Earlier:
    """The processes of an earlier go at the same gate."""

    def __init__(self, processes: Sequence[Ran] = ()) -> None:
        self.processes = list(processes)

    @classmethod
    def of(cls, path: Path, begun: GateBegun) -> Earlier:
        """What the journal at `path` holds; nothing where none was begun. Raises InputError for one
        of another gate than `begun`, and RecordError for one that cannot be read."""
        if is_empty(path):
            say("nothing to resume: starting anew")
            return cls()
        lines = read(path)
        first = lines[0] if lines else None
        if not isinstance(first, GateBegun):
            raise InputError(f"{path} is no journal of a gate: leave --resume out")
        before, after = (msgspec.to_builtins(each) for each in (first, begun))
        before["created"] = after["created"]
        if differs := differing(before, after):
            raise InputError(
                f"--resume goes on with the same gate only. {path}: {'; '.join(differs)}"
            )
        return cls([line for line in lines if isinstance(line, Ran)])

    def block(self, number: int) -> list[Ran]:
        """The four processes of a block in turn, if all of them measured what they were asked for;
        none else. Half a block is measured anew: its processes must follow each other."""
        last_try = {ran.turn: ran for ran in self.processes if ran.block == number}
        found = [last_try[turn] for turn in sorted(last_try)]
        well = all(not (r.failure or r.errors or r.killed or r.foreign) for r in found)
        return found if len(found) == 4 and well else []

    def require_same(self, look: Ran, arm: str) -> None:
        """Raises InputError where a side runs other code than it did, or on another device."""
        for earlier in self.processes:
            if (earlier.block, earlier.arm) != (look.block, look.arm) or earlier.failure:
                continue
            before = {"device": earlier.device, **earlier.contents}
            after = {"device": look.device, **look.contents}
            names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
            if names:
                raise InputError(
                    f"{arm} is not what it was when this gate was broken off "
                    f"({', '.join(sorted(names)[:5])}): leave --resume out"
                )


def unfinished(folder: Path, *, calibration: bool) -> Path | None:
    """The newest journal in a folder of a gate, or of a calibration, that did not come to its end
    and goes on nowhere."""
    for path in sorted(folder.glob(f"gate-*{SUFFIX}"), reverse=True):
        try:
            lines = read(path)
        except RecordError:
            continue
        first = lines[0] if lines else None
        ended = any(isinstance(line, Judgement) for line in lines)
        if not isinstance(first, GateBegun) or ended or in_use(path):
            continue
        if (first.base == CALIBRATION) is calibration:
            return path
    return None
