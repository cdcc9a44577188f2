"""Callables that misbehave on purpose, and one that does not. They need torch alone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import time

import torch

KEPT: list[torch.Tensor] = []
CALLS = [0]


def good(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return inputs["x"] @ inputs["x"].T


def raises(inputs: dict[str, torch.Tensor]) -> None:
    raise ValueError("no such kernel\nand a second line")


def leaks(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    KEPT.append(torch.zeros(1000))
    return inputs["x"]


def longer_each_time(inputs: dict[str, torch.Tensor]) -> list[int]:
    CALLS[0] += 1
    return [0] * CALLS[0]


def prints(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    print('{"answer": {"latency": 0}}')
    os.write(1, b"on the pipe itself\n")
    return inputs["x"]


def closes_its_streams(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    sys.stdout.close()
    with contextlib.suppress(OSError):  # of an earlier request
        os.close(2)
    return inputs["x"]


def hangs(inputs: dict[str, torch.Tensor]) -> None:
    time.sleep(600)


def floods(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    print("x" * 2**21)
    return inputs["x"]


def reads(inputs: dict[str, torch.Tensor]) -> str:
    return sys.stdin.read()


def forks(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The child runs on into the code that called it."""
    os.fork()
    return inputs["x"]


def leaves_a_child(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """And dies, while the child still holds what it inherited."""
    if not os.fork():
        time.sleep(60)
    os._exit(9)


def exits(inputs: dict[str, torch.Tensor]) -> None:
    sys.exit(0)


def exits_at_once(inputs: dict[str, torch.Tensor]) -> None:
    os._exit(0)


def is_killed(inputs: dict[str, torch.Tensor]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_late(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """In the ninth request, when samples have been taken."""
    CALLS[0] += 1
    if CALLS[0] == 9:
        os._exit(7)
    return inputs["x"]


def where_tpprof_is(inputs: dict[str, torch.Tensor]) -> str:
    found = importlib.util.find_spec("tpprof")
    return str(found.origin) if found is not None else ""


class UnsaidError(Exception):
    """Fails where it is to say why."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises_unsaid(inputs: dict[str, torch.Tensor]) -> None:
    raise UnsaidError


for each in [value for value in vars().copy().values() if callable(value)]:
    if getattr(each, "__module__", "") == __name__:
        each.inputs = lambda: {"x": torch.ones(8, 8)}
