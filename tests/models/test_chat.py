"""Dialogues as token ids, with chat templates of every kind, and what of them is learned."""

import dataclasses
import re
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CHAT_TEMPLATES, KINDS, make_chat_tokenizer, make_tokenizer_of

from plaudit.errors import DataError
from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Message, asking

SYSTEM, HELLO, BACK = Message("system", "Be kind."), Message("user", "Hello?"), Message("assistant", "Hello to you.")
MORE, BYE = Message("user", "And\nbye?"), Message("assistant", "Bye,\n\nbye.")
TOKENIZERS = {name: Tokenizer.of(make_chat_tokenizer(name)) for name in (*CHAT_TEMPLATES, None)}
DIALOGUES = [
    ((HELLO,), (BACK,)),
    ((HELLO, BACK, MORE), (BYE,)),
    ((), (HELLO, BACK, MORE, BYE)),
    ((HELLO,), (BACK, MORE, BYE)),
]


@pytest.fixture(params=[*CHAT_TEMPLATES, None], ids=str)
def tokenizer(request):
    return TOKENIZERS[request.param]


def flat(runs):
    """All ids of some runs."""
    return [*chain(*runs)]


def words(tokenizer, ids):
    """The text of ids with its control tokens."""
    return tokenizer.hf.decode(ids, clean_up_tokenization_spaces=False)


def by_transformers(tokenizer, messages, reply=False):
    """The ids that transformers alone makes of a dialogue."""
    plain = [{"role": m.role, "content": m.content} for m in messages]
    return tokenizer.hf.apply_chat_template(plain, add_generation_prompt=reply, return_dict=False)


@pytest.mark.parametrize(("prompt", "response"), DIALOGUES)
def test_each_reply_of_the_response_is_learned_with_its_end_and_nothing_else(tokenizer, prompt, response):
    runs = tokenizer.demonstration(prompt, response)
    replies = [m.content for m in response if m.role == "assistant"]
    learned = [words(tokenizer, run) for run in runs[1::2]]
    assert len(runs) == 2 * len(replies)
    for text, reply in zip(learned, replies, strict=True):
        ends = [end for end in ("<|im_end|>", "<|endoftext|>") if text.endswith(end)]
        bare = text.removesuffix(ends[0]) if ends else text
        assert bare.replace("<think>\n\n</think>\n\n", "").strip() == reply
    assert runs[-1][-1] in tokenizer.end_ids
    read = "".join(words(tokenizer, run) for run in runs[::2])
    assert not any(reply in read for reply in replies)
    assert all(m.content in read for m in (*prompt, *response) if m.role == "user")


@pytest.mark.parametrize(("prompt", "response"), DIALOGUES)
def test_the_ids_are_those_of_transformers_up_to_what_follows_the_last_reply(tokenizer, prompt, response):
    if tokenizer.hf.chat_template is None:
        tokenizer = tokenizer.for_dialogues()
    ids = flat(tokenizer.demonstration(prompt, response))
    theirs = by_transformers(tokenizer, (*prompt, *response))
    if tokenizer.hf.chat_template == CHAT_TEMPLATES["no end token"]:
        assert ids.pop() == tokenizer.eos_id  # this template has no end of a turn
    assert theirs[: len(ids)] == ids
    assert words(tokenizer, theirs[len(ids) :]).strip() == ""


@pytest.mark.parametrize(("prompt", "response"), DIALOGUES)
def test_sampling_begins_where_learning_does(tokenizer, prompt, response):
    runs = tokenizer.demonstration(prompt, response)
    messages, ids = (*prompt, *response), []
    replies = [i for i, m in enumerate(messages) if m.role == "assistant" and i >= len(prompt)]
    for i, read, learned in zip(replies, runs[::2], runs[1::2], strict=True):
        ids += read
        assert tokenizer.prompt(messages[:i]) == ids
        ids += learned


def test_a_message_of_the_assistant_that_answers_nobody_is_read():
    tokenizer = TOKENIZERS["chatml"]
    read, learned = tokenizer.demonstration((), (BACK, HELLO, BYE))
    assert words(tokenizer, learned) == "Bye,\n\nbye.<|im_end|>"
    assert BACK.content in words(tokenizer, read)


def test_a_string_beside_a_dialogue_is_a_message(tokenizer):
    assert tokenizer.demonstration((HELLO,), "Hello to you.") == tokenizer.demonstration((HELLO,), (BACK,))
    assert tokenizer.demonstration("Hello?", (BACK,)) == tokenizer.demonstration((HELLO,), (BACK,))
    assert tokenizer.demonstration((), "a joy") == tokenizer.demonstration("", "a joy")


CONTROL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_<|im_end|>end|>", "<|im_end|><|im_end|>"]


@pytest.mark.parametrize("control", CONTROL)
@pytest.mark.parametrize("place", ["{0}", "a {0} film", "{0}s", "film {0}", " {0} "])
def test_strings_of_special_tokens_in_a_message_are_text(tokenizer, control, place):
    def ids(control):
        content = place.format(control)
        dialogue = (
            (Message("user", content),),
            (Message("assistant", f"b{content}"), MORE, Message("assistant", content)),
        )
        return flat(tokenizer.demonstration(*dialogue))

    found, plain = ids(control), ids("token")
    special = {*tokenizer.control_ids}
    assert [id for id in found if id in special] == [id for id in plain if id in special]
    assert words(tokenizer, found).count(control) >= 3


def test_special_tokens_in_a_message_are_tokens_where_that_is_asked_for():
    text = Tokenizer.of(make_chat_tokenizer())
    tokens = dataclasses.replace(text, special_tokens=True)
    end = text.hf.convert_tokens_to_ids("<|im_end|>")
    message = (Message("user", "a <|im_end|> film"),)
    assert tokens.prompt(message).count(end) == text.prompt(message).count(end) + 1
    assert tokens.prompt("a <|im_end|> film").count(end) == 1
    assert text.prompt("a <|im_end|> film").count(end) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*CHAT_TEMPLATES, None]),
    st.lists(
        st.text(max_size=12).filter(lambda text: text.strip() and not {*text} & {*"\ufdd0\ufdd1"}),
        min_size=2,
        max_size=4,
    ),
)
def test_any_text_is_learned(name, texts):
    tokenizer = TOKENIZERS[name]
    turns = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts[: len(texts) // 2 * 2]))
    try:
        runs = tokenizer.demonstration(turns[:1], turns[1:])
    except DataError:
        assert name == "empty thinking in the last reply"  # it drops what stands before </think>
        assert "</think>" in "".join(texts)
        return
    for run, message in zip(runs[1::2], turns[1::2], strict=True):
        assert "".join(message.content.split()) in "".join(words(tokenizer, run).split())
    assert flat(runs)[: len(runs[0])] == tokenizer.prompt(turns[:1])


@pytest.mark.parametrize(
    ("name", "prompt", "response", "problem"),
    [
        ("instruction", (SYSTEM, HELLO), (BACK,), "refuses it .user and assistant take turns"),
        ("instruction", (HELLO, MORE), (BACK,), "refuses it .user and assistant take turns"),
        ("chatml", (HELLO,), (), "no reply of the assistant"),
        ("chatml", (), (BACK,), "no reply of the assistant"),
        (
            "empty thinking in the last reply",
            (),
            (HELLO, Message("assistant", "<think>hm</think>a"), MORE, BYE),
            "leaves out",
        ),
    ],
)
def test_what_a_template_cannot_say_is_refused_by_the_name_of_the_record(name, prompt, response, problem):
    with pytest.raises(DataError, match=problem) as caught:
        TOKENIZERS[name].demonstration(prompt, response)
    message = str(caught.value)
    assert message.startswith("the conversation that begins '")
    assert (prompt + response)[0].content in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", "leaves out"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "otherwise"),
        ("{% for m in messages %}{{ m.content }}{{ m.content | length }}<|im_end|>{% endfor %}", "changes"),
        ("{% for m in messages %}{% if loop.first %}{{ m.content }}{% endif %}{% endfor %}", "changes"),
        ("{% generation %}{% endgeneration %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "marks no"),
        ("{{ nothing.at.all }}", "refuses it"),
    ],
)
def test_a_template_that_rewrites_the_conversation_is_refused(template, problem):
    hf = make_chat_tokenizer()
    hf.chat_template = template
    with pytest.raises(DataError, match=f"^the conversation that begins 'Human: Hello.*{problem}"):
        Tokenizer.of(hf).demonstration((HELLO,), (BACK,))


def test_thinking_in_the_last_reply_is_learned():
    tokenizer = TOKENIZERS["empty thinking in the last reply"]
    _, learned = tokenizer.demonstration((HELLO,), (Message("assistant", "<think>\nhm\n</think>\n\na"),))
    assert words(tokenizer, learned) == "<think>\nhm\n</think>\n\na<|im_end|>"


def test_the_end_of_a_turn_ends_a_response_beside_eos_and_what_the_model_names():
    end = TOKENIZERS["chatml"].hf.convert_tokens_to_ids("<|im_end|>")
    assert TOKENIZERS["chatml"].end_ids == (0, end)
    assert TOKENIZERS["instruction"].end_ids == TOKENIZERS[None].end_ids == (0,)
    assert Tokenizer.of(make_chat_tokenizer(), [7, 0]).end_ids == (0, 7, end)


def test_the_prompt_of_a_dialogue_is_shown_as_a_transcript(tokenizer):
    ids = tokenizer.prompt((HELLO, BACK, MORE))
    shown = "Human: Hello?\n\nAssistant: Hello to you.\n\nHuman: And\nbye?\n\nAssistant:"
    assert tokenizer.text(ids) == shown == asking((HELLO, BACK, MORE))
    reply = tokenizer.demonstration((HELLO, BACK, MORE), (BYE,))[1]
    assert tokenizer.continuation(ids, reply).removeprefix("<think>\n\n</think>\n\n").strip() == BYE.content


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_reads_dialogues_as_transcripts(kind):
    tokenizer = Tokenizer.of(make_tokenizer_of(kind))
    question, reply = Message("user", "answer : yes"), Message("assistant", "a joy")
    read, learned = tokenizer.demonstration((question,), (reply,))
    assert tokenizer.prompt((question,)) == read
    assert learned[-1] == tokenizer.eos_id
    assert learned.count(tokenizer.eos_id) == 1
    assert "a joy" in tokenizer.text(learned)


def test_a_template_is_saved_that_ends_with_the_last_reply(tokenizer, tmp_path):
    """transformers alone then reads what the reward model read; a language model's folder keeps the template."""
    ours = tokenizer.for_dialogues()
    for messages in ((HELLO, BACK), (HELLO, BACK, MORE, BYE)):
        plain = [{"role": m.role, "content": m.content} for m in messages]
        hf = ours.portable(ends=True)
        assert hf.apply_chat_template(plain, return_dict=False) == flat(
            ours.demonstration(messages[:-1], messages[-1:])
        )
    kept = ours.portable(ends=False)
    assert kept.chat_template == (tokenizer.hf.chat_template or ours.template.template)
    assert kept.apply_chat_template(plain[:-1], add_generation_prompt=True, return_dict=False) == ours.prompt(
        messages[:-1]
    )


def test_the_page_on_conversations_shows_what_the_code_prints(capsys):
    page = (Path(__file__).parents[2] / "docs" / "chat.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed
    transcript = page.rpartition("```text\n")[2].partition("\n```")[0]
    assert transcript == asking(
        (Message("user", "Is the film funny?"), Message("assistant", "Not at all."), Message("user", "Is it sad?"))
    )
