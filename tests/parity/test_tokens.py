"""Our token ids and masks beside those of TRL's trainers, row by row; README.md says what differs, and why."""

import json
from itertools import chain
from pathlib import Path

import pytest
from shared_data import SHARED, needs_shared

from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Message
from tests.parity.rows import HARMLESS, PUBLISHED, ROWS, ROWS_OF_HARMLESS, conversation, digest, harmless, tokenizer
from tests.parity.templates import MARKED, unmarked

FIXTURE = json.loads((Path(__file__).parent / "trl-1.12-tokens.json").read_text(encoding="utf-8"))
PLAIN = Tokenizer.of(tokenizer())
CHATS = {name: Tokenizer.of(tokenizer(unmarked(name))) for name in MARKED}
MARKED_CHATS = {name: Tokenizer.of(tokenizer(template)) for name, template in MARKED.items()}
# What the marks cover that no sampled reply holds: the line break before a reply, and the one after it.
MARKS_BEFORE = ("chatml, default system",)
MARKS_AFTER = ("chatml", "chatml, default system", "chatml, thinking", "gemma", "phi3")


def messages(given):
    return tuple(Message(m["role"], m["content"]) for m in given)


def flat(runs):
    return [*chain(*runs)]


def rows_of(layout, expected):
    return zip(ROWS[layout], expected, strict=True)


@pytest.fixture(params=MARKED)
def name(request):
    return request.param


def test_the_fixture_was_made_with_the_pinned_packages():
    pins = Path(__file__).with_name("requirements.txt").read_text(encoding="utf-8").split()
    for package in ("trl", "transformers", "tokenizers"):
        assert f"{package}=={FIXTURE['made_by'][package]}" in pins


# Texts: TRL writes no bos where the tokenizer adds none. We always do, because it predicts the first token.


def test_text():
    for row, (ids, labels) in rows_of("text", FIXTURE["plain"]["text"]):
        bos, response = PLAIN.demonstration("", row["text"])
        assert bos == [PLAIN.bos_id]
        assert response == ids == labels


def test_prompt_and_completion():
    for row, (ids, labels) in rows_of("prompt-completion", FIXTURE["plain"]["prompt-completion"]):
        prompt, completion = PLAIN.demonstration(row["prompt"], row["completion"])
        assert prompt[1:] + completion == ids
        assert [-100] * len(prompt[1:]) + completion == labels


def test_preference():
    plain = FIXTURE["plain"]
    expected = zip(plain["preference, reward"], plain["preference, dpo"], strict=True)
    for row, ((chosen, rejected), (prompt, *responses)) in rows_of("preference", expected):
        runs = [PLAIN.demonstration(row["prompt"], row[side]) for side in ("chosen", "rejected")]
        assert [flat(r)[1:] for r in runs] == [chosen, rejected]
        assert [r[0][1:] for r in runs] == [prompt, prompt]
        assert [r[1] for r in runs] == responses


def test_preference_with_the_prompt_inside():
    for row, pair in rows_of("implicit preference", FIXTURE["plain"]["implicit preference, reward"]):
        assert [flat(PLAIN.demonstration("", row[side]))[1:] for side in ("chosen", "rejected")] == pair


def test_unpaired_preference():
    for row, pair in rows_of("unpaired preference", FIXTURE["plain"]["unpaired preference"]):
        prompt, completion = PLAIN.demonstration(row["prompt"], row["completion"])
        assert [prompt[1:], completion] == [pair[0], pair[1] + [PLAIN.eos_id] * (pair[1][-1] != PLAIN.eos_id)]


def test_a_control_token_in_a_text_is_text_for_us_and_the_token_for_trl():
    ((row, (ids, _)),) = rows_of("text with a control token", FIXTURE["plain"]["text with a control token"])
    ours = PLAIN.demonstration("", row["text"])[1]
    assert ids.count(PLAIN.eos_id) == 2
    assert ours.count(PLAIN.eos_id) == 1
    assert PLAIN.hf.decode(ours) == PLAIN.hf.decode(ids)


def test_a_space_joins_words_for_us_and_nothing_does_for_trl():
    layout = "prompt-completion without a space"
    ((row, (ids, _)),) = rows_of(layout, FIXTURE["plain"][layout])
    assert PLAIN.hf.decode(ids) == row["prompt"] + row["completion"] + "<|endoftext|>"
    assert PLAIN.demonstration(row["prompt"], " " + row["completion"]) == PLAIN.demonstration(
        row["prompt"], row["completion"]
    )


# Conversations: the ids are TRL's up to the end of the last reply, where ours end.


def by_trl(tokenizer, runs, ids, name):
    """Our ids and learned ids as TRL has them: with what the template writes after the last reply."""
    ours, learned = flat(runs), flat([[place % 2 == 1] * len(run) for place, run in enumerate(runs)])
    after = ids[len(ours) :]
    assert tokenizer.hf.decode(after) in ("", "\n", "\n<|endoftext|>")
    learned += [True] * len(after)
    for place in [i for i in range(1, len(ours)) if learned[i] and not learned[i - 1]]:
        learned[place - 1] = name in MARKS_BEFORE
    for place in [i for i in range(1, len(ours)) if learned[i - 1] and not learned[i]]:
        learned[place] = name in MARKS_AFTER
    return ours + after, [id if learns else -100 for id, learns in zip(ours + after, learned, strict=True)]


@pytest.mark.parametrize("layout", ["messages", "messages with a system message"])
def test_messages(name, layout):
    tokenizer = MARKED_CHATS[name]  # TRL refuses a template without marks that it does not know
    for row, (ids, labels) in rows_of(layout, FIXTURE["chats"][name][layout]):
        runs = tokenizer.demonstration((), messages(row["messages"]))
        assert by_trl(tokenizer, runs, ids, name) == (ids, labels)


@pytest.mark.parametrize("published", PUBLISHED)
def test_the_templates_that_trl_ships_write_and_mark_what_ours_do(published):
    name, layout = PUBLISHED[published]
    assert FIXTURE["published"][published] == [digest(row) for row in FIXTURE["chats"][name][layout]]


def test_our_templates_differ_as_the_published_ones_do():
    """In a default system message, a system role that is dropped, and a thinking block in the last reply alone."""
    system, question, reply = Message("system", "be kind"), Message("user", "a"), Message("assistant", "b")

    def shown(name, *turns):
        return CHATS[name].hf.decode(flat(CHATS[name].demonstration((), turns)))

    assert "system" not in shown("chatml", question, reply)
    assert "use few words" in shown("chatml, default system", question, reply)
    assert "use few words" not in shown("chatml, default system", system, question, reply)
    assert shown("gemma", system, question, reply) == shown("gemma", question, reply)
    assert all("be kind" in shown(other, system, question, reply) for other in MARKED if other != "gemma")
    thinking = shown("chatml, thinking", question, reply, question, reply)
    assert thinking.count("<think>") == 1
    assert thinking.endswith("<think>\n\n</think>\n\nb<|im_end|>")


def test_prompt_and_completion_of_a_conversation(name):
    tokenizer, layout = CHATS[name], "conversational prompt-completion"
    for row, (ids, labels) in rows_of(layout, FIXTURE["chats"][name][layout]):
        runs = tokenizer.demonstration(messages(row["prompt"]), messages(row["completion"]))
        assert by_trl(tokenizer, runs, ids, "") == (ids, labels)


def test_preference_of_conversations(name):
    tokenizer, chats = CHATS[name], FIXTURE["chats"][name]
    expected = zip(
        *(chats[f"{kind}, reward"] for kind in ("conversational preference", "implicit conversational preference")),
        chats["conversational preference, dpo"],
        strict=True,
    )
    for row, (pair, implicit, (prompt, *responses)) in rows_of("conversational preference", expected):
        assert pair == implicit
        for side, whole, response in zip(("chosen", "rejected"), pair, responses, strict=True):
            ours = tokenizer.demonstration(messages(row["prompt"]), messages(row[side]))
            assert by_trl(tokenizer, ours, whole, "")[0] == whole == prompt + response
            assert ours[0] == prompt == tokenizer.prompt(messages(row["prompt"]))


def test_unpaired_preference_of_conversations(name):
    tokenizer, layout = CHATS[name], "conversational unpaired preference"
    for row, (prompt, completion) in rows_of(layout, FIXTURE["chats"][name][layout]):
        ours = tokenizer.demonstration(messages(row["prompt"]), messages(row["completion"]))
        assert ours[0] == prompt
        assert by_trl(tokenizer, ours, prompt + completion, "")[0] == prompt + completion


def test_a_control_token_in_a_message_is_text_for_us_and_the_token_for_trl(name):
    tokenizer, layout = MARKED_CHATS[name], "messages with a control token"
    ((row, (ids, _)),) = rows_of(layout, FIXTURE["chats"][name][layout])
    ours = flat(tokenizer.demonstration((), messages(row["messages"])))
    theirs = ids[: len(ids) - len(by_trl(tokenizer, [ours], [*ours, *ids[len(ours) :]], "")[0]) + len(ours)]
    end = tokenizer.hf.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == ours.count(end) + 1
    assert tokenizer.hf.decode(theirs).startswith(tokenizer.hf.decode(ours)[:20])


def test_of_a_completion_of_several_turns_we_learn_the_replies_and_trl_all_of_it(name):
    tokenizer, layout = CHATS[name], "completion of several turns"
    ((row, (ids, labels)),) = rows_of(layout, FIXTURE["chats"][name][layout])
    runs = tokenizer.demonstration(messages(row["prompt"]), messages(row["completion"]))
    assert ids[: len(flat(runs))] == flat(runs)
    assert labels[len(runs[0]) :] == ids[len(runs[0]) :]
    assert len(runs) == 4


# 1,000 rows of people's preferences, by hashes of their ids.

needs_harmless = needs_shared(str(HARMLESS.relative_to(SHARED)))


@needs_harmless
def test_transcripts_of_hh_harmless():
    found = [digest([flat(PLAIN.demonstration("", transcript))[1:] for transcript in pair]) for pair in harmless()]
    assert len(found) == ROWS_OF_HARMLESS
    assert found == FIXTURE["harmless"]["transcripts, reward"]


@needs_harmless
def test_messages_of_hh_harmless():
    name = "chatml, default system"
    tokenizer = MARKED_CHATS[name]
    end = tokenizer.hf("\n")["input_ids"]
    found = []
    for chosen, _ in harmless():
        runs = tokenizer.demonstration((), messages(conversation(chosen)))
        found.append(digest([*by_trl(tokenizer, runs, flat(runs) + end, name)]))
    assert found == FIXTURE["harmless"]["messages"]


@needs_harmless
def test_conversations_of_hh_harmless():
    tokenizer = CHATS["chatml, default system"]
    end, found = tokenizer.hf("\n")["input_ids"], []
    for pair in harmless():
        both = [messages(conversation(transcript)) for transcript in pair]
        if both[0][:-1] == both[1][:-1]:
            (prompt, chosen), (again, rejected) = (tokenizer.demonstration(m[:-1], m[-1:]) for m in both)
            assert prompt == again
            found.append(digest([prompt, chosen + end, rejected + end]))
    assert len(found) > 0.9 * ROWS_OF_HARMLESS
    assert found == FIXTURE["harmless"]["conversations, dpo"]
