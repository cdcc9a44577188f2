"""What a model answered under each method: enough to score it by any rule, without the model."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Count, Struct, about


class YesNoQuestion(Struct):
    """A yes/no question about a picture."""

    id: Annotated[str, about("What its benchmark calls it; no other of its category has it.")]
    category: Annotated[str, about("Category, such as `adversarial`.")]
    picture: Annotated[str, about("File of the picture, or name of a drawn one.")]
    prompt: Annotated[str, about("The whole question, as it is put into the chat template.")]
    label: Annotated[Literal["yes", "no"], about("The right answer.")]


class Answers(Struct):
    """What the model answered under one method."""

    method: Annotated[str, about("The method as a spec string, as in `Cell.method`.")]
    texts: Annotated[
        list[str | None],
        about("Answers in the order of the questions, null for one not yet asked."),
    ] = []
    error: Annotated[str, about("Why it could not answer; empty if it could.")] = ""


class Accuracy(Struct):
    """An evaluation: the questions, and what was answered. Scores are derived on reading."""

    benchmark: Annotated[str, about("Which benchmark, such as `POPE`.")]
    source: Annotated[str, about("Whence questions and pictures are.")]
    attention: Annotated[str, about("Attention policy under which it was asked.")]
    new_tokens: Annotated[Count, about("Tokens of an answer at most.")]
    batch_size: Annotated[Count, about("Questions in one batch at most.")]
    pictures: Annotated[
        str | None, about("Digest of the pictures' files; null where they are drawn.")
    ] = None
    weights: Annotated[
        str | None, about("Digest of the model's files; null where they are not there.")
    ] = None
    questions: Annotated[list[YesNoQuestion], about("What was asked.")] = []
    answers: Annotated[list[Answers], about("The rows: vanilla first.")] = []


def same_questions(one: Accuracy, other: Accuracy) -> bool:
    """Whether answers to one are answers to the other."""
    kinds = (
        "benchmark",
        "attention",
        "new_tokens",
        "batch_size",
        "pictures",
        "weights",
        "questions",
    )
    return all(getattr(one, kind) == getattr(other, kind) for kind in kinds)


def fits(accuracy: Accuracy) -> bool:
    """Whether each row has a place for each question, or none yet."""
    return all(len(row.texts) in (0, len(accuracy.questions)) for row in accuracy.answers)
