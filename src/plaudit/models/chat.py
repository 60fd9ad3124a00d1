"""Conversations in the words of a model's chat template, and which of these words the model learns.

A template is a program that its author wrote, so nothing about it is assumed: what is learned is found by rendering,
and a conversation whose renderings contradict each other is refused. A data set is used without those few of its
records that are refused: see `without_refused`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers.utils.chat_template_utils import render_jinja_template

from plaudit.errors import ConversationError
from plaudit.records import Dialogue, Message, transcript

# For models without a template. It is `records.transcript`, with bos at the beginning and eos after each reply.
TRANSCRIPT = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '\n\n' if not loop.first }}{{ 'Human' if message.role == 'user' else message.role | capitalize }}: "
    "{{ message.content | trim }}{{ eos_token if message.role == 'assistant' }}{% endfor %}"
    "{{ '\n\nAssistant:' if add_generation_prompt }}"
)
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Two characters that Unicode keeps out of texts. The first splits the strings of control tokens that people wrote, so
# that they can be told from those of the template; the second marks the end of a reply's text.
_SPLIT, _END = "\ufdd0", "\ufdd1"
Record = TypeVar("Record")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, in which control tokens that people wrote are split; `ChatTemplate.pieces` joins them."""

    text: str
    spans: list[tuple[int, int]]  # beginning and end of what is learned, by characters of `text`
    ended: bool  # whether the template ends the last reply with a control token


def ending_with_the_reply(template: str, *, ended: bool) -> str:
    """`template` without what it writes after the last reply, such as a line break; with eos, unless it is `ended`."""
    end = "" if ended else " + eos_token"
    whole = f"conversation if add_generation_prompt else conversation.rstrip(){end}"
    return f"{{% set conversation %}}{template}{{% endset %}}{{{{ {whole} }}}}"


class ChatTemplate:
    """The chat template of a Hugging Face tokenizer; `TRANSCRIPT` where it has none.

    Args:
        control: strings of the tokens that no text contains.
        special_tokens: whether such a string in a text is the token all the same.
    """

    def __init__(self, hf: Any, control: Iterable[str], *, special_tokens: bool = False) -> None:
        self._hf = hf
        self.template = hf.get_chat_template() if getattr(hf, "chat_template", None) else TRANSCRIPT
        strings = sorted(filter(None, control), key=len, reverse=True)
        either = "|".join(map(re.escape, strings)) or r"(?!)"
        self._written = re.compile(r"(?!)" if special_tokens else either)
        self._next_control = re.compile(rf"\s*(?:{either})")
        self._last_controls = re.compile(rf"({either})(?:\s*(?:{either}))*\s*\Z")
        self._split = re.compile(f"({'|'.join(re.escape(_split(string)) for string in strings) or '(?!)'})")

    def prompt(self, messages: Dialogue) -> str:
        """A conversation up to where the assistant's reply begins."""
        return self._render(messages, reply=True)

    def demonstration(self, prompt: Dialogue, response: Dialogue) -> Rendered:
        """A conversation, of which the assistant's turns of `response` are learned, each with its end token.

        A first message of the assistant is not learned: it answers nobody.

        Raises:
            ConversationError: the template refuses the conversation, changes a turn, or writes the turns before a reply
                otherwise than when it asks for that reply.
        """
        messages = (*prompt, *response)
        replies = [i for i, m in enumerate(messages) if m.role == "assistant" and i >= max(1, len(prompt))]
        if not replies:
            raise _refused(
                messages, "it has no reply of the assistant to learn from; add one, or remove it", "without a reply"
            )
        text = self._render(messages)
        marked = _MARKS.search(self.template)
        find = self._spans_between_marks if marked else self._spans_from_prefixes
        found = [self._with_end(text, *span) for span in find(messages, replies, text)]
        learned = ["".join(text[start:end].split()) for start, end, _ in found]
        for number, i in enumerate(replies, 1):
            if not any("".join(self._as_text(messages[i].content).split()) in words for words in learned):
                remedy = "remove that part, or cut the conversation so that it ends with this reply"
                raise _refused(
                    messages,
                    f"the model's chat template leaves out a part of the assistant's reply {number}; {remedy}",
                    "with a reply that the chat template leaves out in part",
                )
        return Rendered(text, [(start, end) for start, end, _ in found], found[-1][2])

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """The parts of a rendered text, each with whether it is a control token's string that people wrote."""
        parts = self._split.split(text)
        return [(part.replace(_SPLIT, ""), place % 2 == 1) for place, part in enumerate(parts) if part]

    def _spans_from_prefixes(self, messages: Dialogue, replies: list[int], text: str) -> list[tuple[int, int]]:
        """From where the template asks for a reply to where that reply's text ends."""
        marked = list(messages)
        for i in replies:
            content = messages[i].content
            words = content.rstrip()
            marked[i] = Message("assistant", words + _END + content[len(words) :])
        with_ends = self._render(marked)
        ends = [match.start() - place for place, match in enumerate(re.finditer(_END, with_ends))]
        if with_ends.replace(_END, "") != text or len(ends) != len(replies):
            raise _refused(messages, "the model's chat template changes the assistant's replies; use another template")
        starts = [len(self._beginning(messages, i, text)) for i in replies]
        return list(zip(starts, ends, strict=True))

    def _spans_between_marks(self, messages: Dialogue, replies: list[int], text: str) -> list[tuple[int, int]]:
        """What the template's author marked by {% generation %}, from the first of `replies` on."""
        (again,), (marked,) = render_jinja_template(
            conversations=[self._plain(messages)],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            **self._hf.special_tokens_map,
        )
        starts = [len(self._beginning(messages, i, text)) for i in replies]
        # What the template writes before it asks for the reply is no part of it, even if it is marked.
        spans = [
            (max([start, *(s for s in starts if start <= s < end)]), end) for start, end in marked if end > starts[0]
        ]
        if again != text or not spans:
            raise _refused(messages, "the model's chat template marks no reply of it; use another template")
        return spans

    def _beginning(self, messages: Dialogue, i: int, text: str) -> str:
        """`text` up to where the template asks for reply `i`."""
        beginning = self._render(messages[:i], reply=True)
        if not text.startswith(beginning):
            raise _refused(
                messages,
                f"the model's chat template writes the first {i} turns otherwise when a reply follows; use another "
                "template",
            )
        return beginning

    def _with_end(self, text: str, start: int, end: int) -> tuple[int, int, bool]:
        """A span with the first control token after its words, and nothing behind that; and whether there is one."""
        if last := self._last_controls.search(text[start:end]):
            return start, start + last.end(1), True
        after = self._next_control.match(text, end)
        return (start, after.end(), True) if after else (start, end, False)

    def _render(self, messages: Iterable[Message], *, reply: bool = False) -> str:
        """The template's text of some messages; with `reply`, up to where the assistant's reply begins."""
        plain = self._plain(messages)
        try:
            return self._hf.apply_chat_template(
                plain, chat_template=self.template, add_generation_prompt=reply, tokenize=False
            )
        except Exception as error:  # of any class: whatever the template's code raises
            problem = str(error).partition("\n")[0] or type(error).__name__
            remedy = "change its roles or their order, or use another model"
            raise _refused(
                messages, f"the model's chat template refuses it ({problem}); {remedy}", "refused by the chat template"
            ) from None

    def _plain(self, messages: Iterable[Message]) -> list[dict[str, str]]:
        return [{"role": self._as_text(m.role), "content": self._as_text(m.content)} for m in messages]

    def _as_text(self, words: str) -> str:
        """`words` with split control tokens."""
        return self._written.sub(lambda match: _split(match[0]), words.replace(_SPLIT, ""))


def _split(control: str) -> str:
    return control[0] + _SPLIT + control[1:]


def _refused(
    messages: Iterable[Message], problem: str, reason: str = "changed by the chat template"
) -> ConversationError:
    words = " ".join(transcript(tuple(messages)).replace(_END, "").split())
    return ConversationError(f"the conversation that begins {words[:60]!r}: {problem}", reason)


def without_refused(records: Iterable[Record], ids: Callable[[Record], Found]) -> tuple[list[Found], dict[str, int]]:
    """What `ids` makes of the records that the chat template can put into words, and how many it cannot, by reason.

    Raises:
        ConversationError: it can do so for none of them.
    """
    found: list[Found] = []
    refused: list[ConversationError] = []
    for record in records:
        try:
            found.append(ids(record))
        except ConversationError as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    return found, dict(Counter(error.reason for error in refused))
