from plaudit.data.prompts import cut_prompts, held_out_prompts
from plaudit.data.splits import Part
from plaudit.records import Demonstration

TEXTS = [f"word{i} two three four five six seven" for i in range(50)]


def _part(*demonstrations):
    return Part(labelled=(), demonstrations=demonstrations, comparisons=())


def test_prompts_are_beginnings_of_the_asked_length_and_leave_something_to_say():
    prompts = cut_prompts(_part(*(Demonstration("", t) for t in TEXTS)), 2, 5, seed=1)
    assert len(prompts) == 50
    assert all(any(t.startswith(p + " ") for t in TEXTS) for p in prompts)
    assert {len(p.split()) for p in prompts} == {2, 3, 4, 5}


def test_a_text_of_as_many_words_as_the_shortest_prompt_gives_none():
    assert cut_prompts(_part(Demonstration("", "only two")), 2, 5, seed=1) == []
    assert cut_prompts(_part(Demonstration("", "just three words")), 2, 5, seed=1) == ["just three"]


def test_given_prompts_are_taken_whole_and_once():
    part = _part(Demonstration("what of the film ?", "good"), Demonstration("what of the film ?", "bad"))
    assert cut_prompts(part, 2, 5, seed=1) == ["what of the film ?"]


def test_order_does_not_depend_on_the_order_of_records():
    records = [Demonstration("", t) for t in TEXTS]
    assert cut_prompts(_part(*records), 2, 5, 1) == cut_prompts(_part(*reversed(records)), 2, 5, 1)
    assert cut_prompts(_part(*records), 2, 5, 1) != cut_prompts(_part(*records), 2, 5, 2)


def test_held_out_prompts_leave_out_those_met_in_training():
    part = _part(Demonstration("a", "x"), Demonstration("b", "y"))
    assert held_out_prompts(part, 2, 5, 1, seen=["b"]) == ["a"]
