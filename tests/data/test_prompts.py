from plaudit.data.prompts import cut_prompts, held_out_prompts
from plaudit.data.splits import Part
from plaudit.records import Demonstration

TEXTS = [f"word{i} two three four five six seven" for i in range(50)]


def _part(*demonstrations):
    return Part(labelled=(), demonstrations=demonstrations, comparisons=())


def test_prompts_are_the_first_words_of_texts_and_leave_at_least_one():
    prompts = cut_prompts(_part(*(Demonstration("", t) for t in TEXTS)), 2, 5, seed=1)
    assert len(prompts) == 50
    assert all(any(t.startswith(p + " ") for t in TEXTS) for p in prompts)
    assert {len(p.split()) for p in prompts} == {2, 3, 4, 5}


def test_a_text_no_longer_than_the_shortest_prompt_gives_none():
    assert cut_prompts(_part(Demonstration("", "only two")), 2, 5, seed=1) == []
    assert cut_prompts(_part(Demonstration("", "just three words")), 2, 5, seed=1) == ["just three"]


def test_prompts_of_demonstrations_are_kept_whole_and_distinct():
    part = _part(Demonstration("what of the film ?", "good"), Demonstration("what of the film ?", "bad"))
    assert cut_prompts(part, 2, 5, seed=1) == ["what of the film ?"]


def test_prompts_depend_on_the_seed_and_not_on_the_order_of_records():
    records = [Demonstration("", t) for t in TEXTS]
    assert cut_prompts(_part(*records), 2, 5, 1) == cut_prompts(_part(*reversed(records)), 2, 5, 1)
    assert cut_prompts(_part(*records), 2, 5, 1) != cut_prompts(_part(*records), 2, 5, 2)


def test_held_out_prompts_exclude_training_prompts():
    part = _part(Demonstration("a", "x"), Demonstration("b", "y"))
    assert held_out_prompts(part, 2, 5, 1, seen=["b"]) == ["a"]
