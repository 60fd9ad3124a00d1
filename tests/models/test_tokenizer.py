import torch

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
        bos_token_id, eos_token_id, pad_token_id = 1, 2, 3

        def get_vocab(self):
            return {"ÿ": 9}

    assert Tokenizer.of(Stub()).pad_id == 3
    Stub.pad_token_id = 2
    assert Tokenizer.of(Stub()).pad_id == 9


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
