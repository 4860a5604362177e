"""Chat templates: Jinja in an immutable sandbox with budgets.

A template comes with a model file, so it is hostile until shown otherwise. What it may do is a
list: the statements of `_ALLOWED_NODES`, the filters, tests and functions of
`template_functions`, a few methods of strings, lists and dicts, and no other attribute of anything.
What it may cost is counted: steps, characters made, characters put out, nesting. Loops pay for all
their iterations before the first; operators and filters pay for what they read and make.

This module imports Jinja2; the package imports it with the first chat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from . import template_functions as functions
from .errors import ModelLimitError, SmallMindError, TemplateError
from .template_budget import BUDGET, Budget, binary_operator, refuse

MAX_TEMPLATE_BYTES = 256 << 10
MAX_TOKENS = 32_768
MAX_TOKENS_A_TAG = 2_048
MAX_BRACKETS = 24
MAX_BLOCKS = 24
MAX_EXPRESSION_DEPTH = 40
MAX_TREE_DEPTH = 80
MAX_OPERATOR_RUN = 24
MAX_MACRO_DEPTH = 16

R = TypeVar("R")

# One step for each iteration and this many nodes of a loop's body.
_NODES_A_STEP = 4

_ALLOWED_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Add, nodes.And, nodes.Assign, nodes.AssignBlock, nodes.BinExpr, nodes.Break, nodes.Call,
    nodes.CallBlock, nodes.Compare, nodes.Concat, nodes.CondExpr, nodes.Const, nodes.Continue,
    nodes.Dict, nodes.Div, nodes.Filter, nodes.FilterBlock, nodes.FloorDiv, nodes.For,
    nodes.Getattr, nodes.Getitem, nodes.If, nodes.Keyword, nodes.List, nodes.Macro, nodes.Mod,
    nodes.Mul, nodes.NSRef, nodes.Name, nodes.Neg, nodes.Not, nodes.Operand, nodes.Or,
    nodes.Output, nodes.Pair, nodes.Pos, nodes.Pow, nodes.Slice, nodes.Sub, nodes.Template,
    nodes.TemplateData, nodes.Test, nodes.Tuple, nodes.With,
)  # fmt: skip

_OPENING_TAGS = frozenset({"if", "for", "macro", "call", "filter", "with", "set", "block"})

_LOOP_ATTRIBUTES = frozenset(
    [
        "index",
        "index0",
        "revindex",
        "revindex0",
        "first",
        "last",
        "length",
        "previtem",
        "nextitem",
        "depth",
        "depth0",
        "cycle",
        "changed",
    ]
)


def _limit(what: str) -> NoReturn:
    raise ModelLimitError(f"chat template: {what}")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Every attribute, item, call and operator of a template comes through here."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            optimized=False,
            cache_size=0,
            extensions=["jinja2.ext.loopcontrols"],
        )
        self.filters = dict(functions.FILTERS)
        self.tests = dict(functions.TESTS)
        self.globals = dict(functions.GLOBALS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Undefined):
            return getattr(obj, attribute)  # raises UndefinedError
        if attribute.startswith("_"):
            refuse(f"the attribute {attribute!r} is not available")
        if isinstance(obj, Namespace) or (
            isinstance(obj, LoopContext) and attribute in _LOOP_ATTRIBUTES
        ):
            return getattr(obj, attribute, self.undefined(obj=obj, name=attribute))
        method = functions.method_of(obj, attribute)
        if method is not None:
            return method
        if isinstance(obj, dict):
            return self.getitem(obj, attribute)
        return refuse(f"the attribute {attribute[:80]!r} of {type(obj).__name__} is not available")

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            return obj[argument]  # raises UndefinedError
        if isinstance(argument, str) and not isinstance(obj, dict):
            return self.getattr(obj, argument)
        if not isinstance(obj, (dict, list, tuple, str, range)):
            refuse(f"an item of {type(obj).__name__} is not available")
        try:
            return obj[argument]
        except (LookupError, TypeError):
            return self.undefined(obj=obj, name=argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Undefined):
            __obj()  # raises UndefinedError
        budget: Budget = __context.parent[BUDGET]
        budget.step(4)
        if isinstance(__obj, functions.Method):
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return __obj(budget, *args, **kwargs)
        if getattr(__obj, "__func__", None) in (LoopContext.cycle, LoopContext.changed):
            return __context.call(__obj, *args, **kwargs)
        if not isinstance(__obj, Macro) and __obj not in functions.CALLABLES:
            refuse(f"a {type(__obj).__name__} cannot be called")
        budget.step(16)
        budget.macro_depth += 1
        if budget.macro_depth > MAX_MACRO_DEPTH:
            _limit(f"calls are nested more than {MAX_MACRO_DEPTH} deep")
        try:
            return __context.call(__obj, *args, **kwargs)
        finally:
            budget.macro_depth -= 1

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return binary_operator(context.parent[BUDGET], operator, left, right)


def _check_tokens(environment: _Sandbox, source: str) -> None:
    """Bounds what would recurse in the parser, over the flat list of tokens."""
    brackets = blocks = run = conditionals = n_tokens = n_in_tag = 0
    tag: str | None = None  # the statement's name, once it is known
    is_block_set = False
    in_tag = False
    for _, kind, text in environment.lex(source):
        if kind in ("whitespace", "comment_begin", "comment", "comment_end", "data"):
            continue
        n_tokens += 1
        n_in_tag += 1
        if n_tokens > MAX_TOKENS or n_in_tag > MAX_TOKENS_A_TAG:
            _limit(f"more than {MAX_TOKENS} tokens, or {MAX_TOKENS_A_TAG} in one tag")
        if kind in ("block_begin", "variable_begin"):
            in_tag, tag, is_block_set = kind == "block_begin", None, False
            brackets = run = conditionals = n_in_tag = 0
            continue
        if kind == "block_end":
            if tag == "set" and not is_block_set:
                blocks -= 1  # an assignment has no end tag
            continue
        if in_tag and tag is None:
            tag, is_block_set = text, True
            blocks += 1 if text in _OPENING_TAGS else -1 if text.startswith("end") else 0
        elif kind == "operator":
            brackets += 1 if text in "([{" else -1 if text in ")]}" else 0
            is_block_set = is_block_set and text != "="
        elif text == "if":
            conditionals += 1
        recurses = (kind == "operator" and text in "+-") or text == "not" or text == "**"
        run = run + 1 if recurses else 0
        if brackets > MAX_BRACKETS or blocks > MAX_BLOCKS:
            _limit(f"nested more than {MAX_BRACKETS} brackets or {MAX_BLOCKS} blocks deep")
        if run > MAX_OPERATOR_RUN or conditionals > MAX_OPERATOR_RUN:
            _limit(f"more than {MAX_OPERATOR_RUN} operators or conditions in a row")


def _check_tree(tree: nodes.Template) -> None:
    """Refuses what is not on the list, and trees that the compiler would recurse into too deep."""
    stack: list[tuple[nodes.Node, int, int]] = [(tree, 1, 0)]
    while stack:
        node, depth, expression_depth = stack.pop()
        if not isinstance(node, _ALLOWED_NODES):
            refuse(f"{type(node).__name__} is not available (line {node.lineno})")
        if isinstance(node, nodes.For) and node.recursive:
            refuse(f"a recursive loop is not available (line {node.lineno})")
        for name in (getattr(node, "attr", None), getattr(node, "name", None)):
            if isinstance(name, str) and name.startswith("_") and not isinstance(node, nodes.Name):
                refuse(f"the name {name[:80]!r} is not available (line {node.lineno})")
        if isinstance(node, nodes.Expr):
            expression_depth += 1
        if depth > MAX_TREE_DEPTH or expression_depth > MAX_EXPRESSION_DEPTH:
            _limit(
                f"more than {MAX_EXPRESSION_DEPTH} operations or {MAX_TREE_DEPTH} statements deep"
            )
        stack += [(child, depth + 1, expression_depth) for child in node.iter_child_nodes()]


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _is_small(node: nodes.Node) -> bool:
    """A constant: what it costs is bounded by the template's own size, and its text is short."""
    return isinstance(node, nodes.Const) and len(str(node.value)) <= 64


def _weight(body: Sequence[nodes.Node]) -> int:
    """The steps of one pass through statements; loops inside pay for themselves."""
    count, stack = 0, list(body)
    while stack:
        node = stack.pop()
        count += 1
        stack += [node.iter] if isinstance(node, nodes.For) else node.iter_child_nodes()
    return 1 + count // _NODES_A_STEP


def _charged_body(body: list[nodes.Node]) -> list[nodes.Node]:
    """A macro's body, which pays for each call."""
    charge = nodes.Const(_weight(body), lineno=1)
    return [nodes.Output([_filtered(charge, "_charge")], lineno=1), *body]


class _Metered(jinja2.visitor.NodeTransformer):
    """Puts the counting filters of `template_functions` where work is done that no hook sees."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        weight = _weight([*node.body, *([node.test] if node.test else [])])
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_each", nodes.Const(weight, lineno=node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        body = _charged_body(node.body)
        self.generic_visit(node)
        node.body = [*body[:1], *node.body]
        return node

    visit_CallBlock = visit_Macro  # has a body, too

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        metered: list[nodes.Expr] = []
        for part in node.nodes:
            if isinstance(part, nodes.TemplateData):
                part = nodes.Const(part.data, lineno=part.lineno)
            metered.append(_filtered(part, "_output"))
        node.nodes = metered
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if all(_is_small(o.expr) and o.op in ("eq", "ne") for o in node.ops):
            return node  # comparing with a short constant stops at its length
        node.expr = _filtered(node.expr, "_read")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "_read")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        none = nodes.Const(None, lineno=node.lineno)
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _filtered(node.node, "_slice", *(bound or none for bound in bounds))


class ChatTemplate:
    """A compiled template. Immutable; any thread."""

    def __init__(self, source: str) -> None:
        if len(source.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
            _limit(f"longer than {MAX_TEMPLATE_BYTES} bytes")
        self.source = source
        environment = _Sandbox()
        # Frames deep or not, a thread with a small stack or not: an error of ours comes out.
        self._template = _guarded(lambda: self._compile(environment, source))

    @staticmethod
    def _compile(environment: _Sandbox, source: str) -> jinja2.Template:
        _check_tokens(environment, source)
        tree = environment.parse(source)
        _check_tree(tree)
        metered = _Metered().visit(tree)
        code = environment.compile(metered, "chat_template", "chat_template")
        return jinja2.Template.from_code(environment, code, environment.globals, None)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for the variables; TemplateError or ModelLimitError if there is none."""
        budget = Budget()
        return _guarded(lambda: self._render(budget, variables))

    def _render(self, budget: Budget, variables: Mapping[str, Any]) -> str:
        context = self._template.new_context({**variables, BUDGET: budget})
        return "".join(self._template.root_render_func(context))


def _guarded(work: Callable[[], R]) -> R:
    """Whatever a template provokes comes out as an error of ours, with nothing of the template's
    but its own message."""
    try:
        return work()
    except SmallMindError:
        raise
    except (RecursionError, MemoryError):
        raise ModelLimitError("chat template: too deep or too large") from None
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"chat template: line {error.lineno}: {str(error.message)[:200]!r}"
        ) from None
    except Exception as error:
        raise TemplateError(
            f"chat template: {type(error).__name__}: {str(error)[:200]!r}"
        ) from None
