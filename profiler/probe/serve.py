"""The probe: a process that runs one callable and is asked, a line of JSON each, what it took.

A question is {"ask": NAME, ...}; the answer to it {"answer": ...}, or {"failed": WHY}.
The first question is `hello`, which says the version of the protocol. stdin and stdout are kept
for this alone: what the callable reads and prints goes elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, TextIO

PROTOCOL = 1
BEGUN = "tpprof-probe"
"""The first line that the probe writes: what stands before it is not its own."""
MOST_PRINTED = 2**20
"""Bytes of what was printed that are kept on disk from one question to the next."""
QUESTIONS = ("timed", "counted", "untimed", "kept", "peak", "flops", "trace")


def main() -> None:
    """Answer until there are no more questions."""
    questions, answers, printed = _own_pipes()
    own = os.getpid()
    server = _Server(printed)
    for line in questions:
        asked = json.loads(line)
        try:
            said: dict[str, Any] = {"answer": server.answer(asked.pop("ask"), asked)}
        except BaseException as error:  # SystemExit among them: what it runs is not to end this
            said = {"failed": _told(error) + _place(error, server.file)}
        if os.getpid() != own:
            os._exit(0)  # a child that the callable forked and left to run on here
        printed.forget()
        answers.write(json.dumps(said) + "\n")
        answers.flush()
    os._exit(0)  # whatever it still runs


class _Printed:
    """The file that stderr is, and stdout goes to: the callable may close its own."""

    def __init__(self, file: int) -> None:
        self.file = file

    def size(self) -> int:
        """Bytes that were printed so far."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # it closed or replaced it
                continue
        return os.fstat(self.file).st_size

    def forget(self) -> None:
        """Give the disk back what was printed, if that is much."""
        if self.size() > MOST_PRINTED:
            os.ftruncate(self.file, 0)


class _Server:
    def __init__(self, printed: _Printed) -> None:
        self.printed = printed
        self.worker: Any = None
        self.file = ""

    def answer(self, name: str, given: dict[str, Any]) -> Any:
        if name == "hello":
            return _hello(given["protocol"])
        if name == "load":
            return self._load(given)
        if name not in QUESTIONS:
            raise ValueError(f"unknown question {name!r}")
        return getattr(self.worker, name)(**given)

    def _load(self, given: dict[str, Any]) -> Any:
        import gc

        import torch

        from .target import find
        from .worker import Worker

        inputs, reference = given.pop("inputs"), given.pop("reference")
        folder = given.pop("folder")
        self.file = reference.rpartition(":")[0]
        self.worker = Worker(self.printed.size)
        if inputs is not None:
            inputs = torch.load(inputs)
        described = self.worker.load(
            find(reference, folder), given.pop("name"), inputs=inputs, **given
        )
        self.file = described["file"]
        gc.collect()
        gc.freeze()
        return described


def _hello(protocol: int) -> dict[str, Any]:
    if protocol != PROTOCOL:
        raise ValueError(f"the probe speaks protocol {PROTOCOL}, and is asked in {protocol}")
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{sys.executable} (Python {version}) has no torch: {error}") from error
    return {"protocol": PROTOCOL, "python": version, "torch": str(torch.__version__)}


def _own_pipes() -> tuple[TextIO, TextIO, _Printed]:
    """stdin and stdout, for questions and answers alone: the callable reads nothing, and what it
    prints is counted with what it complains of. No process that it starts holds them."""
    printed = _Printed(os.dup(2))
    questions = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    answers.write(BEGUN + "\n")
    answers.flush()

    def in_a_child() -> None:
        for pipe in (questions, answers):
            os.close(pipe.fileno())

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_a_child)
    return questions, answers, printed


def _told(error: BaseException) -> str:
    """What went wrong, in one line."""
    name = type(error).__name__
    if isinstance(error, SystemExit):
        return f"it would end the program ({name})"
    if name == "TargetError":
        return str(error)
    try:
        said = str(error)
    except BaseException as wrong:
        said = f"(its message raises {type(wrong).__name__})"
    text = next((line.strip() for line in said.splitlines() if line.strip()), "no details")
    return f"{name}: {text}"


def _place(error: BaseException, file: str) -> str:
    """The line of the callable's own file that an error passed through; "" if it did not."""
    name = os.path.basename(file)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [each.lineno for each in frames if os.path.basename(each.filename) == name]
    return f" ({name} line {lines[-1]})" if name and lines else ""
