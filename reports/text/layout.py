"""How a table becomes lines for a terminal, and fits a narrow one."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells
from rich.text import Text

if TYPE_CHECKING:
    from .table import Column, Table, Tone

GAP, NARROW_GAP = 3, 2  # between columns
ROOMY, LEAST = 24, 12  # to which columns of words give way, if need be
STYLES: dict[Tone, str] = {
    "": "",
    "good": "green",
    "warned": "yellow",
    "bad": "red",
    "strong": "bold",
}
_SEAM = re.compile(r"(?<=[^\W\d][:,/-])(?=\w)|(?<=\d[:,/-])(?=[^\W\d])")
"""Where a long name is broken: behind its marks, as in fastv:layer=2,keep=9, but in no number."""
_JOINT = re.compile(r" +(?=[(±a-z])(?!to [^ ]+\))")
"""Where numbers are broken: before what is said of them, as an interval, not before a unit."""


@dataclass(frozen=True)
class _Field:
    """A text of a row, or a heading."""

    text: str
    words: bool = True
    style: str = ""

    @property
    def width(self) -> int:
        """At which nothing is broken."""
        return _widest(self.text.split("\n"))

    @property
    def least(self) -> int:
        """At which it is broken between its pieces alone."""
        parts = (part for line in self.text.split("\n") for part in self._parts(line))
        return _widest(itertools.chain.from_iterable(parts))

    def _parts(self, line: str) -> list[list[str]]:
        """What stands between spaces, each in the pieces that it can be broken into."""
        if self.words:
            return [_SEAM.split(word) for word in line.split()]
        return [[part] for part in _JOINT.split(line)]

    def broken(self, width: int) -> list[str]:
        """The text in lines of at most `width`, broken between its pieces, else anywhere."""
        lines: list[str] = []
        for whole in self.text.split("\n"):
            if cell_len(whole) <= width:
                lines.append(whole)
                continue
            line = ""
            for part in self._parts(whole):
                space = " " if line else ""
                for piece in part:
                    if cell_len(line + space + piece) <= width:
                        line, space = line + space + piece, ""
                        continue
                    *full, last = chop_cells(piece, width)
                    lines += ([line] if line else []) + full
                    line, space = last, ""
            lines.append(line)
        return lines


@dataclass(frozen=True)
class _Stack:
    """Columns that stand one over the other: the heading of each, and what it says of every row."""

    heads: Sequence[_Field]
    fields: Sequence[Sequence[_Field]]

    @property
    def words(self) -> bool:
        """Whether it stands to the left: as its first column does."""
        return self.heads[0].words

    @functools.cached_property
    def full(self) -> int:
        """The width at which nothing is broken."""
        return max(field.width for fields in (self.heads, *self.fields) for field in fields)

    def least(self, words: int, *, numbers: bool) -> int:
        """The width to which it can give way. Headings are broken into their pieces; words to a
        width of `words`; numbers into their pieces if `numbers`."""
        widths = [field.least for field in self.heads]
        for field in itertools.chain.from_iterable(self.fields):
            if field.words:
                widths.append(min(words, field.width))
            else:
                widths.append(field.least if numbers else field.width)
        return min(max(widths), self.full)

    def head(self, level: int) -> _Field | None:
        return self.heads[level] if level < len(self.heads) else None

    def field(self, level: int, row: int) -> _Field | None:
        return self.fields[level][row] if level < len(self.heads) else None


@dataclass(frozen=True)
class _Sheet:
    """Stacks side by side. reasons: why a row has no numbers, by row, "" where it has them; they
    stand behind the first `names` stacks. dropped: what the columns are called that were left
    out."""

    stacks: Sequence[_Stack]
    reasons: Sequence[str]
    names: int
    gap: int = GAP
    dropped: Sequence[str] = ()

    @property
    def edge(self) -> int:
        """The margin on either side."""
        return int(self.gap == GAP)

    def total(self, widths: Sequence[int]) -> int:
        """The width of a line."""
        return sum(widths) + self.gap * (len(widths) - 1) + 2 * self.edge

    def narrowed(self, width: int, least: Sequence[int]) -> list[int]:
        """Widths at which a line fits, the widest stack giving way first, none below its least; or
        what comes nearest."""
        found = [stack.full for stack in self.stacks]
        while self.total(found) > width:
            wide = [n for n, (own, low) in enumerate(zip(found, least, strict=True)) if own > low]
            if not wide:
                break
            found[max(wide, key=found.__getitem__)] -= 1
        return found

    def fitted(self, width: int, words: int, *, numbers: bool = False) -> list[int] | None:
        """Widths at which a line fits; None where there are none."""
        found = self.narrowed(width, [s.least(words, numbers=numbers) for s in self.stacks])
        return found if self.total(found) <= width else None


def lay_out(table: Table[Any], width: int, *, whole: bool = False) -> Text:
    """The table in lines of at most `width`; whole: with all columns side by side, though the lines
    become longer."""
    columns = table.visible(drawings=True)
    every = _sheet(table, columns)
    if whole:
        least = [stack.least(LEAST, numbers=False) for stack in every.stacks]
        return _joined(_lines(every, every.narrowed(width, least), width))
    for sheet, found in _ways(every, columns, width):
        if found is not None:
            return _joined(_lines(sheet, found, width))
    return _joined(_in_blocks(_stacked(every, columns, drop_wide=True), width))


def _ways(
    every: _Sheet, columns: Sequence[Column[Any]], width: int
) -> Iterator[tuple[_Sheet, list[int] | None]]:
    """How the table could be laid out, the best first, and its widths if it fits so."""
    full = [stack.full for stack in every.stacks]
    for gap in (GAP, NARROW_GAP):
        sheet = replace(every, gap=gap)
        yield sheet, full if sheet.total(full) <= width else None
    for drop_wide in (False, True):
        sheet = _stacked(every, columns, drop_wide=drop_wide)
        yield sheet, sheet.fitted(width, ROOMY)
    for numbers in (False, True):
        yield sheet, sheet.fitted(width, LEAST, numbers=numbers)


def _sheet(table: Table[Any], columns: Sequence[Column[Any]]) -> _Sheet:
    """The table as it is: every column a stack."""
    from .table import count_names

    reasons, names = [table.failed(row) for row in table.rows], count_names(columns)

    def field(column: Column[Any], index: int, row: Any, why: str) -> _Field:
        text = "" if why and index >= names else column.read(row)
        style = STYLES[column.tone(row)] if column.tone else ""
        return _Field(text, column.kind != "number", style)

    stacks = [
        _Stack(
            [_Field(column.heading, column.kind != "number", "bold")],
            [[field(column, n, *pair) for pair in zip(table.rows, reasons, strict=True)]],
        )
        for n, column in enumerate(columns)
    ]
    return _Sheet(stacks, reasons, names)


def _stacked(sheet: _Sheet, columns: Sequence[Column[Any]], *, drop_wide: bool) -> _Sheet:
    """The same with columns under those that they name: the nearest one to the left."""
    stacks: list[_Stack] = []
    places: dict[str, int] = {}  # of headings
    names, dropped = 0, []
    for number, (stack, column) in enumerate(zip(sheet.stacks, columns, strict=True)):
        above = places.get(column.under) if column.under else None
        if drop_wide and column.wide:
            dropped.append(column.named)
        elif above is None:
            places[column.heading] = len(stacks)
            stacks.append(stack)
            names += number < sheet.names
        else:
            upper = stacks[above]
            stacks[above] = _Stack([*upper.heads, *stack.heads], [*upper.fields, *stack.fields])
    return replace(sheet, stacks=stacks, names=names, gap=NARROW_GAP, dropped=dropped)


def _in_blocks(sheet: _Sheet, width: int) -> list[Text]:
    """As many stacks as fit at a time, each time behind the first one, which names the rows."""
    first, *rest = sheet.stacks
    lines: list[Text] = []
    while rest or not lines:
        for count in range(len(rest), -1, -1):
            block = replace(sheet, stacks=[first, *rest[:count]], names=min(sheet.names, 1))
            widths = block.fitted(width, LEAST)
            if widths is not None and (count or not rest):
                break
        else:  # not even one: texts are broken anywhere
            count = min(len(rest), 1)
            block = replace(sheet, stacks=[first, *rest[:1]], names=min(sheet.names, 1))
            widths = block.narrowed(width, [1] * len(block.stacks))
        rest = rest[count:]
        lines += _lines(replace(block, dropped=() if rest else sheet.dropped), widths, width)
        sheet = replace(sheet, reasons=["" for _ in sheet.reasons])
    return lines


def _lines(sheet: _Sheet, widths: Sequence[int], width: int) -> list[Text]:
    """Headings, a rule and rows, between empty lines."""
    levels = range(max((len(stack.heads) for stack in sheet.stacks), default=0))
    lines = [Text()]
    for level in levels:
        heads = [stack.head(level) for stack in sheet.stacks]
        lines += _band(sheet, widths, heads, bottom=True)
    lines.append(Text(" " * sheet.edge + "─" * (sheet.total(widths) - 2 * sheet.edge)))
    for row, why in enumerate(sheet.reasons):
        if len(levels) > 1 and row:
            lines.append(Text())
        band: list[Text] = []
        for level in levels:
            band += _band(sheet, widths, [stack.field(level, row) for stack in sheet.stacks])
        lines += _with_reason(sheet, widths, band, why, width) if why else band
    if sheet.dropped:
        note = _Field(f"--wide adds: {', '.join(sheet.dropped)}")
        lines += [Text(line, "dim") for line in note.broken(width)]
    return [*lines, Text()]


def _band(
    sheet: _Sheet,
    widths: Sequence[int],
    fields: Sequence[_Field | None],
    *,
    bottom: bool = False,
) -> list[Text]:
    """The lines of fields side by side, broken to their widths; shorter ones stand at the top, or
    at the `bottom`."""
    broken = [
        field.broken(width) if field else [] for field, width in zip(fields, widths, strict=True)
    ]
    height = max(map(len, broken), default=0)
    lines = []
    for number in range(height):
        line = Text(" " * sheet.edge)
        for index, (field, parts) in enumerate(zip(fields, broken, strict=True)):
            shift = number - (height - len(parts) if bottom else 0)
            part = parts[shift] if 0 <= shift < len(parts) else ""
            room = " " * (widths[index] - cell_len(part))
            words = sheet.stacks[index].words
            line.append((" " * sheet.gap if index else "") + ("" if words else room))
            line.append(part, field.style if field else "")
            line.append(room if words else "")
        line.rstrip()
        lines.append(line)
    return lines


def _with_reason(
    sheet: _Sheet, widths: Sequence[int], names: Sequence[Text], why: str, width: int
) -> list[Text]:
    """The names of a row, and behind them why it has no numbers."""
    start = sheet.edge + sum(own + sheet.gap for own in widths[: sheet.names])
    lines = []
    for name, part in itertools.zip_longest(names, _Field(why).broken(max(width - start, 1))):
        line = name.copy() if name is not None else Text()
        line.append(" " * (start - line.cell_len) + part if part is not None else "")
        lines.append(line)
    return [line for line in lines if line.plain.strip()]


def _joined(lines: Sequence[Text]) -> Text:
    return Text("\n").join(lines)


def _widest(lines: Iterable[str]) -> int:
    return max((cell_len(line) for line in lines), default=0)
