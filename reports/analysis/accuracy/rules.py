"""The three rules by which programs read POPE's answers and make a figure of them.

POPE asks yes/no questions about objects in pictures (https://arxiv.org/abs/2305.10355). Papers on
pruning print the F1 of LLaVA's rule. Harnesses read the same answers otherwise, and for answers
that drift the figures lie far apart: a figure without its rule says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Said = Literal["yes", "no"]


@dataclass(frozen=True)
class Rule:
    """How answers become a figure.

    read: yes, no, or None for an answer that cannot be read. unreadable: what such an answer
    counts as in F1; None where it vanishes. pooled: F1 over all questions, not the mean of the
    categories' F1.
    """

    name: str
    about: str
    read: Callable[[str], Said | None]
    unreadable: Said | None
    pooled: bool


def read_as_llava(text: str) -> Said | None:
    """The first sentence: `No`, `not` or `no` among its words, which spaces divide, means no. LLaVA
    takes all else for yes; here that is unreadable where no word is a yes (and still counts as
    yes)."""
    words = text.split(".")[0].replace(",", "").split(" ")
    if {"No", "not", "no"} & set(words):
        return "no"
    return "yes" if "yes" in re.findall(r"[a-z]+", text.lower()) else None


def read_strictly(text: str) -> Said | None:
    """The whole answer, lower-cased and without spaces around it, is yes or no."""
    bare = text.lower().strip()
    return "yes" if bare == "yes" else "no" if bare == "no" else None


_MARKS = ';/[]"{}()=+\\_->@<`,?!'


def read_words(text: str) -> Said | None:
    """Just one of yes and no stands among its words.

    Before, a mark that has a space beside it anywhere goes wherever it stands, as all marks do
    where a comma divides digits; another one becomes a space; and the first 32 full stops that no
    digit follows go. So `yes,no` are two words and `yes,no, maybe` begins with `yesno`.
    """
    lowered = text.lower()
    divided = re.search(r"\d,\d", lowered) is not None
    bare = lowered
    for mark in _MARKS:
        beside = f"{mark} " in lowered or f" {mark}" in lowered
        bare = bare.replace(mark, "" if beside or divided else " ")
    words = set(re.sub(r"\.(?!\d)", "", bare, count=32).split())
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "llava",
            "LLaVA's, which papers print: No, not or no among the words of the first sentence is "
            "a no, all else a yes; F1 is the mean of the categories'.",
            read_as_llava,
            unreadable="yes",
            pooled=False,
        ),
        Rule(
            "strict",
            "lmms-eval's: the whole answer is yes or no, any other one is wrong and vanishes from "
            "recall; F1 over all questions.",
            read_strictly,
            unreadable=None,
            pooled=True,
        ),
        Rule(
            "words",
            "VLMEvalKit's: just one of yes and no is among the words, any other answer is wrong "
            "and no yes; F1 over all questions.",
            read_words,
            unreadable="no",
            pooled=True,
        ),
    )
}
DEFAULT_RULE = "llava"
