"""What a chat template's rendering may cost, and the operators that can make something large."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from jinja2.runtime import Context, Undefined

from .errors import ModelLimitError, TemplateError

MAX_STEPS = 1_000_000
MAX_OUTPUT = 8 << 20
MAX_MADE = 64 << 20
MAX_INTEGER_BITS = 512
MAX_SECONDS = 2.0

BUDGET = "\0budget"
"""The key of the budget in a context: no template can spell it."""

_CHARACTERS_A_STEP = 1_024
CHARACTERS_AN_ITEM = 8
STEPS_A_CALL = 6


class Budget:
    """What one rendering has used. One thread."""

    def __init__(self) -> None:
        self.steps = 0
        self.output = 0
        self.made = 0
        self.macro_depth = 0
        self._check_clock_at = 4_096
        self._latest = time.thread_time() + MAX_SECONDS

    def step(self, n: int = 1) -> None:
        self.steps += n
        if self.steps > MAX_STEPS:
            raise ModelLimitError(f"chat template: more than {MAX_STEPS} steps")
        if self.steps >= self._check_clock_at:
            self._check_clock_at = self.steps + 4_096
            if time.thread_time() > self._latest:
                raise ModelLimitError(f"chat template: more than {MAX_SECONDS} s of computing")

    def make(self, n_characters: int) -> None:
        """Before a string or list of that size is made."""
        self.made += n_characters
        if self.made > MAX_MADE:
            raise ModelLimitError(f"chat template: made more than {MAX_MADE} characters")
        self.step(1 + n_characters // _CHARACTERS_A_STEP)

    def read(self, value: Any) -> Any:
        """Before all of a value is looked at: pays for its size, elements included."""
        stack = [value]
        while stack:
            item = stack.pop()
            size = 0
            if isinstance(item, str):
                size = len(item)
            elif isinstance(item, (list, tuple)):
                stack += item
            elif isinstance(item, dict):
                stack += item
                stack += item.values()
            elif isinstance(item, range):
                size = len(item) * _CHARACTERS_A_STEP
            self.step(STEPS_A_CALL + size // _CHARACTERS_A_STEP)
        return value


def budget_of(context: Context) -> Budget:
    budget: Budget = context.parent[BUDGET]
    return budget


def refuse(what: str) -> NoReturn:
    raise TemplateError(f"chat template: {what}")


def text_of(budget: Budget, value: Any) -> str:
    """str() of what a template may print; the size of a container is paid for first."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, dict)):
        before = budget.made
        budget.read(value)
        text = str(value)
        budget.make(len(text) if budget.made == before else 0)
        return text
    if value is None or isinstance(value, (bool, int, float, Undefined)):
        return str(value)
    return refuse(f"a {type(value).__name__} cannot be printed")


def items_of(budget: Budget, value: Any) -> list[Any]:
    """The elements of what a template may iterate over, paid for."""
    if isinstance(value, Undefined):
        return list(value)
    if not isinstance(value, (list, tuple, range, dict, str)):
        refuse(f"a {type(value).__name__} cannot be iterated over")
    budget.make(len(value) * CHARACTERS_AN_ITEM)
    budget.step(len(value))
    return list(value)


def _size(sequence: str | list[Any] | tuple[Any, ...]) -> int:
    """In characters' worth of memory."""
    return len(sequence) * (1 if isinstance(sequence, str) else CHARACTERS_AN_ITEM)


# Operators ------------------------------------------------------------------------------------


def _multiply(budget: Budget, left: Any, right: Any) -> Any:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(count, int):
            budget.make(_size(sequence) * max(count, 0))
            return sequence * count
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        if max(left.bit_length(), 1) * abs(right) > MAX_INTEGER_BITS:
            raise ModelLimitError(f"chat template: an integer of more than {MAX_INTEGER_BITS} bits")
    elif not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        refuse("** is for numbers")
    return left**right


def binary_operator(budget: Budget, operator: str, left: Any, right: Any) -> Any:
    """The operators that can make something large."""
    for value in (left, right):
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise ModelLimitError(f"chat template: an integer of more than {MAX_INTEGER_BITS} bits")
    if operator == "+":
        if isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            budget.make(_size(left) + _size(right))
        return left + right
    if operator == "*":
        return _multiply(budget, left, right)
    if operator == "**":
        return _power(left, right)
    if isinstance(left, str):
        refuse("the operator % formats no text")
    return left % right if operator == "%" else left // right
