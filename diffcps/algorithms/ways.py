"""Other ways to act than a trial's own: so many candidates, the averaged policy, or another value of what only acting reads.

They are written ``NAME=VALUE``. Training does not depend on them, so one trained policy is evaluated in each of them.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffcps.config import EvaluationConfig, RunConfig
from diffcps.config.plain import described, hints
from diffcps.errors import UserError, nearest
from diffcps.text import worded

if TYPE_CHECKING:
    from diffcps.algorithms.base import Algorithm

ONE = "candidates=1"
"""The policy's own action, without a choice among several."""


@dataclass(frozen=True)
class Way:
    """One setting of acting and the value that it takes instead of the trial's."""

    name: str
    """``candidates``, ``actor``, or a setting of the algorithm that only acting reads."""
    value: int | float | str

    def __str__(self) -> str:
        return f"{self.name}={worded(self.value)}"

    @property
    def title(self) -> str:
        """What a table calls it."""
        return "one step" if self == STUDENT else str(self)

    @property
    def column(self) -> str:
        """Where its score is in ``measures.csv``."""
        return f"score_{self.name}_{worded(self.value)}"

    @property
    def setting(self) -> str:
        """The full name of the setting."""
        return f"evaluation.{self.name}" if self.name in OF_EVALUATION else self.name

    @property
    def always(self) -> bool:
        """Whether the policies act in it at every evaluation, not at the last alone: a student, so that it has a curve."""
        return self == STUDENT

    def rule(self, own: EvaluationConfig) -> EvaluationConfig:
        """An evaluation in this way, where a trial's own is ``own``; a student proposes one action."""
        alone = {"candidates": 1} if self == STUDENT else {}
        return own.replaced(**{self.name: self.value}, **alone)

    def is_own(self, trial: RunConfig) -> bool:
        """Whether all members of a trial act in this way anyway."""
        return set(trial.values(self.setting)) == {self.value}


STUDENT = Way("actor", "student")
"""The student of a chain in its place."""
OF_EVALUATION = "candidates", "actor"
"""Choices that are settings of the evaluation, not of an algorithm."""


def parts(texts: Iterable[str]) -> list[tuple[str, str]]:
    """``candidates=1,10`` as (name, value) of each way. Raises ``UserError`` where a value has no name."""
    found: list[tuple[str, str]] = []
    name = ""
    for text in itertools.chain.from_iterable(text.split(",") for text in texts):
        before, _, value = text.rpartition("=")
        name = before.strip().replace("-", "_") or name
        if not name or not value.strip():
            raise UserError(f"acting {text!r}: write it as NAME=VALUE or NAME=V1,V2, for example {ONE}.")
        found.append((name, value.strip()))
    return found


def names(algorithm: "type[Algorithm[Any]]") -> list[str]:
    """What can be varied of the acting of an algorithm."""
    choices = {"candidates": algorithm.chooses, "actor": len(algorithm.actors(algorithm.settings())) > 1}
    return [*(name for name, there in choices.items() if there), *algorithm.settings.of_acting()]


def read(texts: Sequence[str], algorithm: "type[Algorithm[Any]]", called: str) -> list[Way]:
    """The ways that texts (``NAME=VALUE`` or ``NAME=V1,V2``) name, each once; ``called`` is the algorithm's name, for errors.

    Raises ``UserError`` when its acting has nothing of that name to vary, or a text is no number.
    """
    known = names(algorithm)
    # a finished policy may have a student although its training has no choice of who acts
    allowed = {*known, *(["actor"] if "student" in algorithm.settings.names() else [])}
    found: dict[Way, None] = {}
    for name, text in parts(texts):
        if name not in allowed:
            hint = nearest(name, known) or "."
            raise UserError(f"acting {name}={text}: {called} has {', '.join(known) or 'nothing'} to vary{hint}")
        kind = hints(EvaluationConfig if name in OF_EVALUATION else algorithm.settings)[name]
        found[Way(name, _value(name, text, kind))] = None
    return list(found)


def _value(name: str, text: str, kind: Any) -> int | float | str:
    """The value of a setting of the annotated type ``kind``."""
    if kind not in (int, float):
        return text
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        raise UserError(f"acting {name}={text}: {name} must be {described(kind)}.") from None
