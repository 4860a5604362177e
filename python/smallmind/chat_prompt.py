"""From messages to token ids.

The text of a message is never read as a control token: before rendering, a noncharacter is put
into each spelling of a control token's text in it; afterwards the noncharacters come out again and
their places tell the tokenizer where no control token may stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core
from .errors import InvalidArgumentError, TemplateError

if TYPE_CHECKING:
    from .template import ChatTemplate

MAX_MESSAGES = 2_048
ROLES = ("system", "developer", "user", "assistant", "tool")


def checked_messages(messages: Any, name: str) -> list[dict[str, str]]:
    """A copy of the messages; an error names the message and the field."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise TypeError(f"{name}: wants a list of messages, has {type(messages).__name__}")
    out: list[dict[str, str]] = []
    for i, message in enumerate(messages):
        if i >= MAX_MESSAGES:
            raise InvalidArgumentError(f"{name}: more than {MAX_MESSAGES}")
        out.append(_checked_message(message, f"{name}[{i}]"))
    return out


def _checked_message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise TypeError(f"{where}: wants a dict, has {type(message).__name__}")
    copy = dict(message)
    for key in ("role", "content"):
        if key not in copy:
            raise InvalidArgumentError(f"{where}.{key}: is missing")
    for key, value in copy.items():
        if not isinstance(key, str) or not key.isidentifier() or len(key) > 64:
            raise InvalidArgumentError(f"{where}: {key!r:.80} is not the name of a field")
        if not isinstance(value, str):
            raise TypeError(f"{where}.{key}: wants str, has {type(value).__name__}")
        surrogate = re.search("[\ud800-\udfff]", value)
        if surrogate:
            raise InvalidArgumentError(
                f"{where}.{key}: a lone surrogate at character {surrogate.start()} is not text"
            )
    if copy["role"] not in ROLES:
        raise InvalidArgumentError(
            f"{where}.role = {copy['role']!r:.80}: must be one of {', '.join(ROLES)}"
        )
    return copy


class Spellings:
    """Finds the spellings of control tokens in a text, in either case."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        texts = {text.lower() for text in control_texts if len(text) > 1}
        self._texts = texts
        self._lengths = sorted({len(text) for text in texts})
        firsts = "".join(re.escape(first) for first in sorted({text[0] for text in texts}))
        self._firsts = re.compile(f"[{firsts}]", re.IGNORECASE) if texts else None
        self._prefixes = {text[:n] for text in texts for n in range(1, len(text))}
        self._suffixes = {text[n:] for text in texts for n in range(1, len(text))}

    def places(self, text: str) -> list[int]:
        """Where a noncharacter keeps control tokens out: inside each spelling, and at the ends of
        the text where it could be one half of a spelling."""
        if self._firsts is None:
            return []
        lowered = text.lower() if len(text.lower()) == len(text) else text
        places = {
            match.start() + 1
            for match in self._firsts.finditer(text)
            if any(lowered[match.start() : match.start() + n] in self._texts for n in self._lengths)
        }
        longest = self._lengths[-1]
        # Templates strip white space, so the ends are those of the stripped text.
        start, end = len(lowered) - len(lowered.lstrip()), len(lowered.rstrip())
        tail = lowered[max(start, end - longest) : end]
        if any(tail[-n:] in self._prefixes for n in range(1, len(tail) + 1)):
            places.add(end)
        head = lowered[start : start + longest]
        if any(head[:n] in self._suffixes for n in range(1, len(head) + 1)):
            places.add(start)
        return sorted(places)


def _noncharacter(texts: Iterable[str]) -> str:
    """One that stands in none of the texts."""
    joined = set().union(*map(set, texts)) if texts else set()
    for code in (*range(0xFDD0, 0xFDF0), *range(0x100000, 0x10FFFE)):
        if chr(code) not in joined:
            return chr(code)
    raise InvalidArgumentError("messages: have every noncharacter")


def _marked(text: str, places: list[int], mark: str) -> str:
    parts, at = [], 0
    for place in places:
        parts += [text[at:place], mark]
        at = place
    return "".join([*parts, text[at:]])


class Rendering(NamedTuple):
    text: str
    marks: list[int]
    """Byte offsets in the text's UTF-8 at which no control token may span."""


class Prompt(NamedTuple):
    text: str
    ids: list[int]
    retokenized: bool


class ChatPrompt:
    """Makes the context of a chat session: a text, and the ids that stand for it. Any thread."""

    def __init__(
        self, tokenizer: _core.Tokenizer, template: ChatTemplate, spellings: Spellings
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._spellings = spellings

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return self._rendering(messages, add_generation_prompt).text

    def _rendering(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> Rendering:
        texts = [self._template.source, *(text for m in messages for text in m.values())]
        mark = _noncharacter(texts)
        marked = [
            {
                key: _marked(value, self._spellings.places(value), mark)
                for key, value in message.items()
            }
            for message in messages
        ]
        text = self._template.render(
            {
                "messages": marked,
                "add_generation_prompt": add_generation_prompt,
                "bos_token": self._text_of(self._tokenizer.bos_id),
                "eos_token": self._text_of(self._tokenizer.eos_id),
                "tools": None,
                "documents": None,
            }
        )
        parts = text.split(mark)
        return Rendering("".join(parts), list(_offsets(parts)))

    def _text_of(self, token_id: int | None) -> str:
        if token_id is None:
            return ""
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")

    def next(self, messages: list[dict[str, str]], kept: Prompt | None) -> Prompt:
        """The context with which the model answers the messages. kept: the last turn's, with its
        answer."""
        rendering = self._rendering(messages, add_generation_prompt=True)
        if kept is not None and rendering.text.startswith(kept.text):
            added = rendering.text[len(kept.text) :]
            start = len(kept.text.encode())
            marks = [mark - start for mark in rendering.marks if mark > start]
            ids = kept.ids + self._tokenizer.encode_marked(added, False, True, marks)
            return Prompt(rendering.text, ids, retokenized=False)
        ids = self._tokenizer.encode_marked(rendering.text, False, True, rendering.marks)
        bos = self._tokenizer.bos_id
        if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        if not ids:
            raise TemplateError("chat template: it makes no text of these messages")
        return Prompt(rendering.text, ids, retokenized=kept is not None)

    def answered(self, prompt: Prompt, text: str, ids: list[int]) -> Prompt:
        """The context with the answer: its ids, as far as they spell its text. A stop string is cut
        from the text in the middle of a token; the rest is tokenised."""
        n_ids = len(ids)
        while n_ids > 0 and not text.startswith(self._spelled(ids[:n_ids])):
            n_ids -= 1
        rest = text[len(self._spelled(ids[:n_ids])) :]
        added = self._tokenizer.encode(rest, add_special=False) if rest else []
        return Prompt(prompt.text + text, [*prompt.ids, *ids[:n_ids], *added], False)

    def _spelled(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=True)


def _offsets(parts: list[str]) -> Iterator[int]:
    """The byte offsets between the parts."""
    offset = 0
    for part in parts[:-1]:
        offset += len(part.encode())
        yield offset
