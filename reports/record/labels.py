"""What a cell is called in sentences and columns."""

from __future__ import annotations

from .schema import Cell


def name(cell: Cell) -> str:
    """A cell as sentences name it."""
    policy = f" with {cell.attention}" if cell.reads_attention else ""
    return cell.method + policy + (f" under {cell.runtime}" if cell.runtime != "eager" else "")


def as_it_ran(cell: Cell) -> str:
    """The same, with what it ran under where that is not what was asked for."""
    return name(cell) + (" (which ran eager)" if cell.fallback else "")


def runtime(cell: Cell) -> str:
    """Under what it was asked to run, and what it ran under where that is not the same."""
    if cell.fallback:
        return f"eager, not {cell.runtime}"
    return f"{cell.runtime}, prefill eager" if cell.eager_prefill else cell.runtime


def ran(cell: Cell) -> str:
    """Under what it really ran."""
    return "eager" if cell.fallback else cell.runtime
