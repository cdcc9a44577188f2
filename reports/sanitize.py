"""Text from outside, made harmless where it is shown: one function for each format.

Names, tags, messages of plug-ins, file names and texts of exceptions may hold anything. Characters
that a terminal obeys, or that turn a line around, become visible escapes as `\\x1b`.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import sys
from typing import Any

LONGEST = 1000
"""Characters of a line on stderr."""
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"  # controls: ESC, CSI, BEL, ...; half a character
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    # And Unicode's Default_Ignorable_Code_Point, by which two names that differ look alike.
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""What ends lines, is obeyed by a terminal, is seen by nobody, or is no text at all."""
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a text begins with that a spreadsheet would run (OWASP: CSV injection)."""
_SEPARATED = re.compile(r"(;\s*)(?=[=+@-])")
"""A formula behind what separates cells where the comma is that of decimals."""
_MARKDOWN = re.compile(
    r"([\\`*\[\]~$@]|(?<![^\W_])_|_(?![^\W_])"
    r"|(?<=:)/(?=/)|(?<=www)\."  # of an address, which becomes a link by itself
    r"|^[#+-]+(?=\s|$)|^>|^=+$)",  # what begins a block
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}


_PLAIN = {"─": "-", "±": "+-", "…": "..."}
"""Our own marks, where the output has no such characters."""


def write_any_text() -> None:
    """Let standard output take any text, whatever it is encoded in: what it has no character for
    becomes a plain one, or a visible escape, and no error."""
    codecs.register_error("tpprof", _plainly)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="tpprof")


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(each, each) for each in found)
    return plain.encode("ascii", "backslashreplace").decode(), error.end


def visible(text: str) -> str:
    """The text with escapes for what would be obeyed; line breaks and tabs stay."""
    return _OBEYED.sub(_escape, text)


def masked(text: str) -> str:
    """The same with as many characters: what is already laid out keeps its widths."""
    return _OBEYED.sub(lambda found: found[0] if found[0] == "\n" else "\ufffd", text)


def one_line(text: str, most: int = 0) -> str:
    """The text on one line, of `most` characters where that is given: the middle is what goes."""
    line = visible(" ".join(re.split(r"[\t\r\n]+", text)))
    if not most or len(line) <= most:
        return line
    tail = most // 4
    return f"{line[: most - tail - 5]} ... {line[-tail:]}"


def quoted(text: object, most: int = 60) -> str:
    """What was given, quoted, and not all of it if it is long."""
    return one_line(repr(text), most)


def say(text: str) -> None:
    """One line on stderr. A terminal that is gone is no reason to end."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(one_line(text, LONGEST), file=sys.stderr, flush=True)


def for_markdown(text: str) -> str:
    """Text inside Markdown: on one line, and nothing of it becomes a tag, a link or a style."""
    plain = one_line(text).strip().replace("&", "&amp;").replace("<", "&lt;")
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", plain))


def for_csv(value: Any) -> Any:
    """A value of a CSV file: a text that a spreadsheet would take for a formula stands behind an
    apostrophe; numbers stay."""
    if not isinstance(value, str):
        return value
    line, begun = _SEPARATED.sub(r"\1'", one_line(value)), value.strip()
    return f"'{line}" if begun.startswith(_FORMULA) else line


def for_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def for_json(text: str) -> str:
    """JSON, which a terminal may show: what would be obeyed inside its strings is escaped."""
    return _OBEYED.sub(lambda found: _json_escape(found[0]), text)


def for_xml(text: str) -> str:
    """Text of an XML document, which cannot hold most control characters."""
    return re.sub("[\ufffe\uffff]", "?", visible(text))


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in "\t\n":
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    if character in "\t\r\n":
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
