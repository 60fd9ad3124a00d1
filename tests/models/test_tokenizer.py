import pytest
import torch
from tiny import KINDS, make_tokenizer_of

from plaudit.errors import ModelError
from plaudit.models.tokenizer import Tokenizer, collate, pad_left


def test_every_text_begins_with_bos_and_every_response_ends_with_eos(tiny_tokenizer):
    prompt, response = tiny_tokenizer.demonstration("the cast", "is wonderful")
    assert prompt[0] == tiny_tokenizer.bos_id
    assert response[-1] == tiny_tokenizer.eos_id
    assert tiny_tokenizer.text(prompt + response) == "the cast is wonderful"  # set apart by a space
    assert tiny_tokenizer.demonstration("", "a joy")[0] == [tiny_tokenizer.bos_id]


def test_padding_is_never_a_token_of_a_text_nor_eos(tiny_tokenizer):
    assert tiny_tokenizer.hf.pad_token_id is None  # the trap: GPT-2 has none
    assert tiny_tokenizer.pad_id != tiny_tokenizer.eos_id
    everything = "".join(chr(i) for i in range(32, 0x2FFF))
    assert tiny_tokenizer.pad_id not in tiny_tokenizer.response(everything)


def test_a_tokenizers_own_padding_is_kept_unless_it_is_eos(tiny_tokenizer):
    class Stub:
        bos_token_id, eos_token_id, pad_token_id, unk_token_id = 1, 2, 3, 0
        added_tokens_decoder, all_special_ids = {}, ()

        def get_vocab(self):
            return {"ÿ": 9}

        def __call__(self, text, **_):
            return {"input_ids": [7, 8]}  # two bytes

    assert Tokenizer.of(Stub()).pad_id == 3
    Stub.pad_token_id = 2
    assert Tokenizer.of(Stub()).pad_id == 9
    Stub.__call__ = lambda self, text, **_: {"input_ids": [9]}  # a letter
    assert Tokenizer.of(Stub()).pad_id == 0


def test_collate_masks_by_length_and_learns_eos():
    batch = collate([([7], [8, 0]), ([7, 7], [0])], pad_id=0)  # padding that looks like eos changes nothing
    assert batch.ids.tolist() == [[7, 8, 0], [7, 7, 0]]
    longer = collate([([7], [8, 0]), ([7, 7], [5, 5, 0])], pad_id=0)
    assert longer.attention_mask.tolist() == [[True, True, True, False, False], [True] * 5]
    assert longer.loss_mask.tolist() == [[False, True, True, False, False], [False, False, True, True, True]]


def test_pad_left_puts_the_last_token_of_every_prompt_in_the_last_column():
    ids, mask = pad_left([[1, 2, 3], [4]], pad_id=9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert torch.equal(mask, torch.tensor([[True, True, True], [False, False, True]]))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> Tokenizer:
    return Tokenizer.of(make_tokenizer_of(request.param))


@pytest.mark.parametrize(
    ("prompt", "response"),
    [("answer :", "yes"), ("answer : ", "yes"), ("answer :", " yes"), ("answer : ", " yes"), ("answer :   ", "yes")],
)
def test_one_space_joins_prompt_and_response(tokenizer, prompt, response):
    ids, rest = tokenizer.demonstration(prompt, response)
    assert ids == tokenizer.prompt(prompt) == tokenizer.prompt("answer :")  # sampling starts where training did
    assert tokenizer.text(ids + rest) == "answer : yes"
    assert tokenizer.continuation(ids, rest) == " yes"
    assert rest == tokenizer.demonstration("answer :", "yes")[1]


def test_no_space_follows_a_line_break():
    tokenizer = Tokenizer.of(make_tokenizer_of("byte-level"))
    for prompt, response in (("a warm\n", "film"), ("a warm", "\nfilm"), ("a warm\n", "\n film")):
        ids, rest = tokenizer.demonstration(prompt, response)
        assert tokenizer.text(ids + rest) == prompt + response


@pytest.mark.parametrize("text", ["{0}", "a {0} film", "{0} a film", "a film {1} {2} film", "film{0}s", "{0}{0} film"])
def test_strings_of_special_tokens_in_a_text_are_text(tokenizer, text):
    hf = tokenizer.hf
    text = text.format(hf.eos_token, hf.bos_token or hf.eos_token, hf.pad_token or hf.eos_token)
    inside = [*tokenizer._ids(text)[0], *tokenizer.demonstration(text, text)[0][tokenizer.bos_id is not None :]]
    assert not {tokenizer.bos_id, tokenizer.eos_id, hf.pad_token_id} & {*inside} - {None, hf.unk_token_id}
    assert tokenizer.response(text).count(tokenizer.eos_id) == 1
    assert tokenizer.demonstration("a film", text)[1].count(tokenizer.eos_id) == 1


@pytest.mark.parametrize("end", ["{0}", " {0}", "{0}{0}", "{0}\n", " {0} {0} "])
def test_a_text_ends_once(tokenizer, end):
    end = end.format(tokenizer.hf.eos_token)
    assert tokenizer.text(tokenizer.response("a film" + end)) == "a film"
    assert tokenizer.demonstration("a film", "a joy" + end)[1] == tokenizer.demonstration("a film", "a joy")[1]


@pytest.mark.parametrize("prompt", ["", " ", "   "])
def test_an_empty_prompt_begins_with_bos_or_is_refused_by_name(tokenizer, prompt):
    if tokenizer.bos_id is not None:
        assert tokenizer.prompt(prompt) == [tokenizer.bos_id]
    else:
        with pytest.raises(ModelError, match=rf"prompt '{prompt}' gives no tokens"):
            tokenizer.prompt(prompt)
    assert tokenizer.demonstration(prompt, "a joy")[1] == tokenizer.response("a joy")  # SFT needs no prompt


def test_padding_differs_from_eos_in_every_kind(tokenizer):
    assert tokenizer.pad_id != tokenizer.eos_id


def test_the_bytes_of_a_text_are_kept_although_the_tokenizer_calls_them_special():
    hf = make_tokenizer_of("metaspace")
    hf.add_special_tokens({"extra_special_tokens": ["<0x0A>", "<|im_start|>"]})
    tokenizer = Tokenizer.of(hf)
    assert hf.convert_tokens_to_ids("<0x0A>") not in tokenizer.control_ids
    assert hf.convert_tokens_to_ids("<|im_start|>") in tokenizer.control_ids
