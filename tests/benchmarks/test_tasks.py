from itertools import chain
from pathlib import Path

import pytest
from shared_data import SHARED, needs_shared

from benchmarks import tasks
from benchmarks.workload import eos_id_of, make

NOWHERE = Path("nowhere")
RECORDS = [name for name in tasks.NAMES if name not in tasks.SAMPLED]
NEEDS = needs_shared("sst2/train.tsv", "gpt2-tokenizer/vocab.json", "gpt2-tokenizer/merges.txt")


@pytest.mark.parametrize("size", ["tiny", pytest.param("gpt2", marks=NEEDS)])
@pytest.mark.parametrize("name", RECORDS)
def test_the_same_arguments_give_the_same_texts_and_each_ends_with_its_only_end_token(name, size):
    task = tasks.make(name, size, SHARED, steps=3)
    assert task == tasks.make(name, size, SHARED, steps=3)
    assert task.batches != tasks.make(name, size, SHARED, steps=3, seed=2).batches
    assert len(task.batches) == 3
    for prompt, response in chain(*chain(*task.batches)):
        ids = [*prompt, *response]
        assert ids.index(task.eos_id) == len(ids) - 1 < tasks.LONGEST
        assert task.pad_id not in ids
        assert response


@pytest.mark.parametrize("name", ["sft", "reward-model", "dpo"])
def test_a_batch_has_as_many_records_as_asked_for(name):
    task = tasks.make(name, "tiny", NOWHERE, steps=2, batch_size=5)
    assert [len(batch) for batch in task.batches] == [5, 5]
    assert {len(record) for batch in task.batches for record in batch} == {1 if name == "sft" else 2}


def test_the_two_texts_of_a_pair_have_one_prompt():
    for (prompt, first), (other, second) in chain(*tasks.make("dpo", "tiny", NOWHERE, steps=4).batches):
        assert prompt == other
        assert len(prompt) > 0
        assert first != second


def test_packed_rows_are_nearly_full_and_tokens_are_counted_without_padding():
    task = tasks.make("sft-packed", "tiny", NOWHERE, steps=4)
    found = [sum(len(text) for ((_, text),) in row) for row in task.batches]
    assert task.tokens() == found
    assert all(0.95 * tasks.ROW <= number <= tasks.ROW for number in found)


def test_every_prompt_is_asked_once_for_each_response_of_its_group():
    work = make("tiny", NOWHERE)
    prompts = tasks.prompts(work)
    assert len(prompts) == len(work.prompts)
    groups = [prompts[start : start + tasks.GROUP] for start in range(0, len(prompts), tasks.GROUP)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len(set(prompts)) == len(groups)
    assert max(map(max, prompts)) < eos_id_of("tiny")
