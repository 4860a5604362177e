"""The vocabulary of chat templates: methods, filters, tests and functions.

Every filter and test takes the context first, also because Jinja then never evaluates it while
compiling, where no budget counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from jinja2 import pass_context
from jinja2.runtime import Context, Undefined
from jinja2.utils import Namespace

from .errors import ModelLimitError, TemplateError
from .template_budget import (
    BUDGET,
    CHARACTERS_AN_ITEM,
    MAX_OUTPUT,
    STEPS_A_CALL,
    Budget,
    binary_operator,
    budget_of,
    items_of,
    refuse,
    text_of,
)

# Methods --------------------------------------------------------------------------------------


class Method:
    """A method of a string, list or dict, bound to its object."""

    __slots__ = ("_function", "_self")

    def __init__(self, function: Callable[..., Any], self_: Any) -> None:
        self._function = function
        self._self = self_

    def __call__(self, budget: Budget, *args: Any, **kwargs: Any) -> Any:
        return self._function(budget, self._self, *args, **kwargs)


def _string_method(name: str) -> Callable[..., Any]:
    """A method whose result is at most about as large as the string."""

    def call(budget: Budget, text: str, *args: Any) -> Any:
        budget.make(len(text))
        for argument in args:
            budget.read(argument)
        return getattr(text, name)(*args)

    return call


def _replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    if not all(isinstance(value, str) for value in (text, old, new)):
        refuse("replace is for strings")
    budget.read(text)
    n_places = text.count(old)
    if isinstance(count, int) and count >= 0:
        n_places = min(n_places, count)
    budget.make(len(text) + n_places * max(len(new) - len(old), 0))
    return text.replace(old, new, count)


def _split(name: str) -> Callable[..., Any]:
    def call(budget: Budget, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        budget.make(2 * len(text))
        parts: list[str] = getattr(text, name)(sep, maxsplit)
        budget.step(len(parts))
        return parts

    return call


def _join(budget: Budget, separator: str, values: Iterable[Any]) -> str:
    texts = [text_of(budget, value) for value in items_of(budget, values)]
    budget.make(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


_STRING_METHODS: dict[str, Callable[..., Any]] = {
    name: _string_method(name)
    for name in [
        "capitalize",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "rfind",
        "rindex",
        "rpartition",
        "rstrip",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
    ]
}
_STRING_METHODS |= {
    "join": _join,
    "replace": _replace,
    "rsplit": _split("rsplit"),
    "split": _split("split"),
}


def _list_method(name: str) -> Callable[..., Any]:
    def call(budget: Budget, values: Any, value: Any) -> Any:
        budget.read(values)
        return getattr(values, name)(value)

    return call


def _dict_method(name: str) -> Callable[..., Any]:
    def call(budget: Budget, values: dict[Any, Any]) -> Any:
        budget.make(len(values))
        return list(getattr(values, name)())

    return call


def _dict_get(budget: Budget, values: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return values.get(key, default)


_LIST_METHODS = {name: _list_method(name) for name in ("count", "index")}
_DICT_METHODS = {name: _dict_method(name) for name in ("items", "keys", "values")}
_DICT_METHODS["get"] = _dict_get


def method_of(value: Any, name: str) -> Method | None:
    """The method of that name, if a template may call it."""
    methods: dict[str, Callable[..., Any]] = {}
    if isinstance(value, str):
        methods = _STRING_METHODS
    elif isinstance(value, dict):
        methods = _DICT_METHODS
    elif isinstance(value, (list, tuple)):
        methods = _LIST_METHODS
    function = methods.get(name)
    return None if function is None else Method(function, value)


# What `_Metered` of template.py puts into the tree ------------------------------------------------


def _charge(budget: Budget, weight: int) -> str:
    budget.step(weight)
    return ""


def _each(budget: Budget, value: Any, weight: int) -> Any:
    if isinstance(value, (list, tuple, range)):
        budget.step(len(value) * weight + 1)
        return value
    items = items_of(budget, value)
    budget.step(len(items) * weight + 1)
    return items


def _concat(budget: Budget, values: list[Any]) -> str:
    texts = [text_of(budget, value) for value in values]
    budget.make(sum(map(len, texts)))
    return "".join(texts)


def _slice(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    if isinstance(value, Undefined):
        return value[start:stop:step]
    if not isinstance(value, (str, list, tuple, range)):
        refuse(f"a {type(value).__name__} has no slices")
    span = slice(start, stop, step)
    n_items = len(range(*span.indices(len(value))))
    budget.make(n_items if isinstance(value, str) else n_items * CHARACTERS_AN_ITEM)
    return value[span]


# Filters --------------------------------------------------------------------------------------


def _tojson(
    budget: Budget,
    value: Any,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        refuse("tojson: indent must be 0 ... 16")
    budget.make(0)
    budget.read(value)
    text = json.dumps(
        value,
        indent=indent,
        separators=separators and (separators[0][:8], separators[1][:8]),
        sort_keys=bool(sort_keys),
        ensure_ascii=bool(ensure_ascii),
    )
    budget.make(len(text))
    return text


def _indent(
    budget: Budget, text: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    prefix = width if isinstance(width, str) else " " * min(max(int(width), 0), 65)
    if len(prefix) > 64:
        raise ModelLimitError("chat template: indent: a width of more than 64")
    lines = text_of(budget, text).split("\n")
    budget.make(sum(map(len, lines)) + len(lines) * (len(prefix) + 1))
    return "\n".join(
        prefix + line if (i > 0 or first) and (line or blank) else line
        for i, line in enumerate(lines)
    )


def _default(budget: Budget, value: Any, other: Any = "", boolean: bool = False) -> Any:
    return other if isinstance(value, Undefined) or (boolean and not value) else value


def _length(budget: Budget, value: Any) -> int:
    if not isinstance(value, (str, list, tuple, dict, range, Undefined)):
        refuse(f"a {type(value).__name__} has no length")
    return len(value)


def _number(kind: type[int] | type[float]) -> Callable[..., Any]:
    def convert(budget: Budget, value: Any, default: Any = 0) -> Any:
        if isinstance(value, str) and len(value) > 64:
            return default
        try:
            return kind(value)
        except (TypeError, ValueError, OverflowError):
            return default

    return convert


def _pick(attribute: str | None, item: Any) -> Any:
    if attribute is None:
        return item
    if not isinstance(attribute, str) or attribute.startswith("_"):
        refuse("an attribute must be the name of an item")
    for part in attribute.split("."):
        if isinstance(item, (list, tuple)) and part.isdecimal() and len(part) < 8:
            item = item[int(part)] if int(part) < len(item) else None
        else:
            item = item.get(part) if isinstance(item, dict) else None
    return item


def _map(context: Context, value: Any, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
    budget = budget_of(context)
    items = items_of(budget, value)
    if name is None:
        attribute = kwargs.get("attribute")
        default = kwargs.get("default")
        picked = [_pick(attribute, item) for item in items]
        return [default if item is None else item for item in picked]
    function = FILTERS.get(name)
    if function is None or not isinstance(name, str) or name.startswith("_") or name == "map":
        refuse(f"map: no filter {str(name)[:40]!r}")
    return [function(context, item, *args, **kwargs) for item in items]


def _selecting(wanted: bool, by_attribute: bool) -> Callable[..., Any]:
    def select(context: Context, value: Any, *args: Any) -> list[Any]:
        budget = budget_of(context)
        attribute, rest = (args[0], args[1:]) if by_attribute else (None, args)
        name = rest[0] if rest else None
        test = TESTS.get(name) if isinstance(name, str) else None
        if name is not None and test is None:
            refuse(f"select: no test {str(name)[:40]!r}")
        out = []
        for item in items_of(budget, value):
            picked = _pick(attribute, item)
            if test is not None and name in ("defined", "undefined"):
                holds = (picked is not None) == (name == "defined")
            else:
                holds = bool(test(context, picked, *rest[1:])) if test else bool(picked)
            if holds == wanted:
                out.append(item)
        return out

    return select


def _sorted(
    budget: Budget,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | None = None,
) -> list[Any]:
    items = items_of(budget, value)

    def key(item: Any) -> Any:
        picked = budget.read(_pick(attribute, item))
        return picked.lower() if isinstance(picked, str) and not case_sensitive else picked

    budget.step(len(items) * len(items).bit_length())
    return sorted(items, key=key, reverse=bool(reverse))


def _dictsort(budget: Budget, value: Any) -> list[Any]:
    if not isinstance(value, dict):
        refuse("dictsort is for dicts")
    return sorted(budget.read(value).items(), key=lambda item: str(item[0]).lower())


def _unique(budget: Budget, value: Any) -> list[Any]:
    seen: dict[Any, None] = {}
    for item in budget.read(items_of(budget, value)):
        seen.setdefault(item)
    return list(seen)


def _sum(budget: Budget, value: Any, attribute: str | None = None, start: Any = 0) -> Any:
    total = start
    for item in items_of(budget, value):
        total = binary_operator(budget, "+", total, _pick(attribute, item))
    return total


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def pick(budget: Budget, value: Any, attribute: str | None = None) -> Any:
        items = [budget.read(_pick(attribute, item)) for item in items_of(budget, value)]
        return function(items) if items else None

    return pick


def _end(index: int) -> Callable[..., Any]:
    def pick(budget: Budget, value: Any) -> Any:
        items = value if isinstance(value, (str, list, tuple)) else items_of(budget, value)
        return items[index] if items else Undefined(name="first" if index == 0 else "last")

    return pick


def _via_method(name: str) -> Callable[..., Any]:
    method = _STRING_METHODS[name]

    def call(budget: Budget, value: Any, *args: Any) -> Any:
        return method(budget, text_of(budget, value), *args)

    return call


def _filter_join(budget: Budget, value: Any, d: str = "", attribute: str | None = None) -> str:
    items = [_pick(attribute, item) for item in items_of(budget, value)]
    return _join(budget, text_of(budget, d), items)


def _reverse(budget: Budget, value: Any) -> Any:
    reversed_items = items_of(budget, value)[::-1]
    return "".join(reversed_items) if isinstance(value, str) else reversed_items


def _round(budget: Budget, value: Any, precision: int = 0) -> float:
    return round(float(value), min(max(int(precision), -300), 300))


_BUDGET_FILTERS: dict[str, Callable[..., Any]] = {
    "_charge": _charge,
    "_concat": _concat,
    "_each": _each,
    "_read": lambda budget, value: budget.read(value),
    "_slice": _slice,
    "abs": lambda budget, value: abs(value),
    "capitalize": _via_method("capitalize"),
    "count": _length,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "first": _end(0),
    "float": _number(float),
    "indent": _indent,
    "int": _number(int),
    "items": lambda budget, value: (
        [] if isinstance(value, Undefined) else list(budget.read(value).items())
    ),
    "join": _filter_join,
    "last": _end(-1),
    "length": _length,
    "list": items_of,
    "lower": _via_method("lower"),
    "max": _extreme(max),
    "min": _extreme(min),
    "replace": lambda budget, value, *args: _replace(budget, text_of(budget, value), *args),
    "reverse": _reverse,
    "round": _round,
    "safe": text_of,
    "sort": _sorted,
    "string": text_of,
    "sum": _sum,
    "title": _via_method("title"),
    "tojson": _tojson,
    "trim": _via_method("strip"),
    "unique": _unique,
    "upper": _via_method("upper"),
}

# Tests ----------------------------------------------------------------------------------------


def _contains(budget: Budget, value: Any, container: Any) -> bool:
    return budget.read(value) in budget.read(container)


def _equal(budget: Budget, value: Any, other: Any) -> bool:
    return bool(budget.read(value) == budget.read(other))


def _is(*types: type) -> Callable[..., bool]:
    def test(budget: Budget, value: Any) -> bool:
        return isinstance(value, types)

    return test


def _is_number(*types: type) -> Callable[..., bool]:
    def test(budget: Budget, value: Any) -> bool:
        return isinstance(value, types) and not isinstance(value, bool)

    return test


_BUDGET_TESTS: dict[str, Callable[..., Any]] = {
    "==": _equal,
    "boolean": _is(bool),
    "callable": _is(Method),
    "defined": lambda budget, value: not isinstance(value, Undefined),
    "divisibleby": lambda budget, value, number: value % number == 0,
    "eq": _equal,
    "equalto": _equal,
    "even": lambda budget, value: value % 2 == 0,
    "false": lambda budget, value: value is False,
    "float": _is(float),
    "in": _contains,
    "integer": _is_number(int),
    "iterable": _is(str, list, tuple, dict, range),
    "lower": lambda budget, value: budget.read(str(value)).islower(),
    "mapping": _is(dict),
    "ne": lambda budget, value, other: not _equal(budget, value, other),
    "none": lambda budget, value: value is None,
    "number": _is(int, float),
    "odd": lambda budget, value: value % 2 == 1,
    "sequence": _is(str, list, tuple, dict, range),
    "string": _is(str),
    "true": lambda budget, value: value is True,
    "undefined": lambda budget, value: isinstance(value, Undefined),
    "upper": lambda budget, value: budget.read(str(value)).isupper(),
}


@pass_context
def _output(context: Context, value: Any) -> str:
    """The most frequent of all, so it does its counting itself."""
    budget: Budget = context.parent[BUDGET]
    text = value if type(value) is str else text_of(budget, value)
    budget.output += len(text)
    if budget.output > MAX_OUTPUT:
        raise ModelLimitError(f"chat template: more than {MAX_OUTPUT} characters of output")
    budget.step(STEPS_A_CALL)
    return text


def _with_budget(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def call(context: Context, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.step(STEPS_A_CALL)
        return function(budget, *args, **kwargs)

    return call


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _with_budget(function) for name, function in _BUDGET_FILTERS.items()},
    "_output": _output,
    "map": pass_context(_map),
    "reject": pass_context(_selecting(False, by_attribute=False)),
    "rejectattr": pass_context(_selecting(False, by_attribute=True)),
    "select": pass_context(_selecting(True, by_attribute=False)),
    "selectattr": pass_context(_selecting(True, by_attribute=True)),
}
TESTS: dict[str, Callable[..., Any]] = {
    name: _with_budget(function) for name, function in _BUDGET_TESTS.items()
}

# Functions ------------------------------------------------------------------------------------


def _raise_exception(message: Any = "") -> NoReturn:
    raise TemplateError(f"chat template: {str(message)[:500]}")


def _strftime_now(spec: str) -> str:
    # A number after % would be a width, and a width can be a gigabyte.
    parts = spec[:64].split("%")[1:] if isinstance(spec, str) else ["0"]
    if len(spec) > 64 or any(part[:1].isdigit() for part in parts):
        refuse("strftime_now: a format of at most 64 characters, without widths")
    return time.strftime(spec)


def _range(*bounds: int) -> range:
    if not all(isinstance(bound, int) and abs(bound) < 1 << 31 for bound in bounds):
        refuse("range: wants integers below 2^31")
    return range(*bounds)


def _dict(**items: Any) -> dict[str, Any]:
    return dict(items)


GLOBALS: dict[str, Any] = {
    "dict": _dict,
    "namespace": Namespace,
    "raise_exception": _raise_exception,
    "range": _range,
    "strftime_now": _strftime_now,
}
CALLABLES = tuple(GLOBALS.values())
