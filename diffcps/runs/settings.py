"""Every setting of a trial by its name: what it means, what values it takes, and how text becomes its value."""

import ast
import contextlib
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, get_args, get_origin

from diffcps import algorithms
from diffcps.algorithms import ways
from diffcps.config import DataConfig, EvaluationConfig, Member, RunConfig
from diffcps.config.plain import described, fitting, hints
from diffcps.config.run import OWN
from diffcps.errors import UserError, nearest

SHORT = {"data": "data.source", "evaluate_every": "evaluation.every"}
"""Names of flags that are not those of settings. The settings of data and evaluation also go by their last part."""
SEEDS = 5
"""Members of a pack by default."""


@dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    """``target_kl``, ``steps``, ``evaluation.every``."""
    hint: Any
    """The annotated type."""
    default: Any
    help: str
    rule: str = ""
    """What a number must be; empty: anything of its type."""
    symbol: str = ""
    """What tables and figures call it; empty: its name."""
    search: str = ""
    """The values that the preset ``search`` tries, as for ``--search``; empty: it leaves the setting as it is."""
    of_member: bool = False
    """Whether members of a pack may differ in it."""
    of_acting: bool = False
    """Whether only acting reads it, so that ``--acting`` can vary it."""

    @property
    def values(self) -> str:
        """What values it takes, for people."""
        if self.rule and get_origin(self.hint) is UnionType:
            return f"{self.rule}, or none"
        return self.rule or described(self.hint)

    def parse(self, value: Any) -> Any:
        """The value that a text means; other values are only checked, a list as several parts of one value.

        Raises ``UserError`` with the meaning of the setting when it does not take that value.
        """
        if isinstance(value, str):
            value = _read(self.hint, value.strip())
        try:
            return fitting(self.name, self.hint, self.rule, tuple(value) if isinstance(value, list) else value)
        except UserError as error:
            raise UserError(f"{error} {self.name}: {self.help} By default {self.default}.") from error


@cache
def settings(algorithm: str) -> Mapping[str, Setting]:
    """Every setting of a trial of an algorithm by name. Raises ``UserError`` when there is no such algorithm."""
    found = _of(algorithms.get(algorithm).settings)
    trial = _of(RunConfig)
    trial["seeds"] = Setting(
        "seeds", int, default=SEEDS, help="Members of the pack; their seeds are 0, 1, …", rule="a positive whole number"
    )
    found |= {name: trial[name] for name in OWN}
    found |= _of(EvaluationConfig, "evaluation.") | _of(DataConfig, "data.")
    acting = ways.names(algorithms.get(algorithm))
    return {n: replace(s, of_acting=n.removeprefix("evaluation.") in acting) for n, s in found.items()}


@cache
def names_of(algorithm: str) -> Mapping[str, str]:
    """Full name of each setting by every name that it goes by."""
    known = settings(algorithm)
    members = {item.name for item in fields(Member)}  # theirs are not those of the data
    short = {full.rpartition(".")[2]: full for full in known if "." in full}
    short = {name: full for name, full in short.items() if name not in members}
    return short | SHORT | {full: full for full in known}


def has(name: str, algorithm: str) -> bool:
    """Whether trials of an algorithm have a setting of that name, full or short, that makes a difference."""
    full = names_of(algorithm).get(_plain(name))
    return full is not None and (full != "evaluation.candidates" or algorithms.get(algorithm).chooses)


def find(name: str, algorithm: str) -> Setting:
    """The setting of that name, full or short. Raises ``UserError`` with the nearest name when there is none."""
    check_names([name], [algorithm])
    return settings(algorithm)[names_of(algorithm)[_plain(name)]]


def check_names(names: Iterable[str], several: Sequence[str]) -> None:
    """Raise ``UserError`` for the names that are settings of none of the algorithms, all of them, each with the nearest one."""
    known = {own for algorithm in several for own in names_of(algorithm)}
    have_not = f"{several[0]} has no" if len(several) == 1 else f"None of {', '.join(several)} has a"
    found = [
        f"{have_not} setting {name!r}{nearest(_plain(name), known) or '.'}"
        for name in names
        if _plain(name) not in known
    ]
    if found:
        lists = several[0] if len(several) == 1 else "NAME"
        raise UserError(f"{' '.join(found)} `diffcps settings {lists}` lists all.")


def _plain(name: str) -> str:
    return name.strip().replace("-", "_")


def _read(hint: Any, text: str) -> Any:
    """A text as the annotated type; where it is none, the text, for the check of types to refuse."""
    if get_origin(hint) is UnionType:
        return None if text.lower() == "none" else _read(get_args(hint)[0], text)
    if get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float) if hint in (int, float) else ():
        with contextlib.suppress(ValueError):
            number = kind(text)
            return int(number) if hint is int and number == int(number) else number
    return text


def _of(cls: type, prefix: str = "") -> dict[str, Setting]:
    """The settings that are the fields of a dataclass."""
    member = cls.of_member() if hasattr(cls, "of_member") else ()
    said = {
        name: text for base in reversed(cls.__mro__) if is_dataclass(base) for name, text in _comments(base).items()
    }
    return {
        prefix + item.name: Setting(
            prefix + item.name, hints(cls)[item.name], item.default, said.get(item.name, ""),
            rule=item.metadata.get("rule", ""), symbol=item.metadata.get("symbol", ""),
            search=item.metadata.get("search", ""), of_member=item.name in member,
        )
        for item in fields(cls)
    }  # fmt: skip


@cache
def _comments(cls: type) -> dict[str, str]:
    """The texts below the fields of a dataclass, by the name of the field, each in one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split()).replace("``", "`")
    return found
