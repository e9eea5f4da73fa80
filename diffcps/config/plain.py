"""Settings as checked, frozen dataclasses that turn into plain dictionaries and back."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from diffcps.errors import UserError, nearest

if TYPE_CHECKING:
    from typing import Self

_HINTS: dict[type, dict[str, Any]] = {}
Value = str | int | float | bool | None
"""A setting as JSON holds it."""


def hints(cls: type) -> dict[str, Any]:
    """The annotated types of the fields of a dataclass; kept, for a large sweep asks for them many thousand times."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


class Values(Mapping[str, Value]):
    """Settings by name: immutable, hashable, equal where all names and values are equal."""

    def __init__(self, values: Mapping[str, Value] = {}) -> None:
        for name, value in values.items():
            require(isinstance(value, Value), str(name), value, "text, a number, true, false or null")
            require(not isinstance(value, float) or math.isfinite(value), str(name), value, "finite")
        # 0.0 and -0.0 are one setting and must give one key
        self._values = {name: value + 0.0 if isinstance(value, float) else value for name, value in values.items()}

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise ``UserError`` unless the condition holds: «name = value: it must be rule»."""
    if not condition:
        raise UserError(f"{name} = {value!r}: it must be {rule}.")


_RULES: dict[str, Callable[[Any], bool]] = {
    "a positive whole number": lambda v: v >= 1,
    "a whole number, zero or more": lambda v: v >= 0,
    "a positive number": lambda v: v > 0 and math.isfinite(v),
    "a finite number": math.isfinite,
    "zero or more": lambda v: v >= 0 and math.isfinite(v),
    "between 0 and 1": lambda v: 0 <= v <= 1,
}
_KINDS: dict[Any, tuple[str, Any]] = {
    int: ("a whole number", int),
    float: ("a number", (int, float)),
    bool: ("true or false", bool),
    str: ("text", str),
}


def require_number(owner: object, rule: str, *names: str) -> None:
    """Check numeric fields of ``owner`` by a rule written as one of the phrases above (NaN satisfies none of them)."""
    for name in names:
        require(_RULES[rule](getattr(owner, name)), name, getattr(owner, name), rule)


def setting(
    default: Any, rule: str = "", *, symbol: str = "", search: str = "", pack: bool = False, acting: bool = False
) -> Any:
    """A field with more facts than its type and default.

    Args:
        default: its default.
        rule: what a number must be, in one of the phrases above.
        symbol: what tables and figures call it. Settings with a symbol are shown of every trial.
        search: the values that the preset ``search`` tries, written as for ``--search``.
        pack: whether the members of a pack share this real number, because arrays common to all are made from it.
        acting: whether it changes nothing but how a trained policy acts.
    """
    metadata = {"rule": rule, "symbol": symbol, "search": search, "pack": pack, "acting": acting}
    return field(default=default, metadata=metadata)


class Plain:
    """Checks the type of every setting, turns a dataclass into a plain dictionary and back; unknown keys are errors."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            value = getattr(self, name)
            rule = type(self).__dataclass_fields__[name].metadata.get("rule", "")  # type: ignore[attr-defined]
            object.__setattr__(self, name, fitting(name, hint, rule, value))

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (tuples become lists), ready for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """The inverse of ``to_dict``. Raises ``UserError`` naming an unknown key, a missing one or a wrong type."""
        require(isinstance(values, Mapping), cls.__name__, values, "a group of settings")
        known = hints(cls)
        for key in values:
            if key not in known:
                raise UserError(f"{cls.__name__} has no setting {key!r}{nearest(str(key), known) or '.'}")
        try:
            return cls(**{key: _revive(known[key], value) for key, value in values.items()})
        except (TypeError, OverflowError) as error:
            raise UserError(f"{cls.__name__}: {error}") from error

    def replaced(self, **changes: Any) -> "Self":
        """A copy with the given fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[type-var]


def fitting(name: str, hint: Any, rule: str, value: Any) -> Any:
    """The value of a setting, whole numbers as real ones where its type says so.

    Raises ``UserError`` when it is not of the annotated type, or a number that breaks the rule.
    """
    if hint is Values and isinstance(value, Mapping):
        return Values(value)
    _require_type(name, hint, value)
    if rule and value is not None:
        require(_RULES[rule](value), name, value, rule)
    if isinstance(value, int) and _is_float(hint):
        return float(value)  # 0 and 0.0 are one setting and must give one key
    return value + 0.0 if isinstance(value, float) else value  # so are 0.0 and -0.0


def described(hint: Any) -> str:
    """What values of an annotated type are, for people: ``one of 'fp32', 'bf16'``."""
    if get_origin(hint) is UnionType:
        return f"{described(get_args(hint)[0])}, or none"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return "a list" if get_origin(hint) is tuple else _KINDS[hint][0]


def _plain(value: Any) -> Any:
    if isinstance(value, Plain):
        return value.to_dict()
    if isinstance(value, Values):
        return dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _is_float(hint: Any) -> bool:
    """Whether a setting is a real number, or one that may be missing."""
    return hint is float or (get_origin(hint) is UnionType and float in get_args(hint))


def _require_type(name: str, hint: Any, value: Any) -> None:
    """Refuse a value that is not of the annotated type; a whole number will do for a real one, a boolean for neither."""
    if hint in _KINDS:
        rule, kind = _KINDS[hint]
        require(isinstance(value, kind) and (hint is bool or not isinstance(value, bool)), name, value, rule)
    elif get_origin(hint) is UnionType:  # of one type and None
        if value is not None:
            _require_type(name, get_args(hint)[0], value)
    elif get_origin(hint) is Literal:
        require(value in get_args(hint), name, value, described(hint))
    elif get_origin(hint) is tuple:
        require(isinstance(value, tuple), name, value, "a list")
        for item in value:
            _require_type(name, get_args(hint)[0], item)
    else:
        require(isinstance(value, hint), name, value, f"a {hint.__name__}")


def _revive(hint: Any, value: Any) -> Any:
    """A value of JSON as the annotated type; one that does not fit is left for the check of types to refuse."""
    if hint in _KINDS:
        return value
    if get_origin(hint) is UnionType and value is not None:
        return _revive(get_args(hint)[0], value)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return hint.from_dict(value)  # type: ignore[union-attr]
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_revive(get_args(hint)[0], item) for item in value)
    return value
