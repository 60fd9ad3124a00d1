from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.data.hashed import Record, key
from plaudit.data.splits import Part, Splits, share, split
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Ranking

Refused = Callable[[Callable[[], object]], str]


def parts(splits: Splits) -> tuple[Part, Part, Part]:
    return splits.train, splits.prompts, splits.evaluation


def disjoint(sets: list[set[str]]) -> bool:
    return len(set.union(*sets)) == sum(map(len, sets))


def cut(records: list[Record], held_out: list[Record] | None = None) -> Splits:
    return split("x", records, held_out or [], Counter())


def test_share_reads_a_hash_as_a_fraction() -> None:
    assert share(bytes(32)) == 0.0
    assert share(b"\x80" + bytes(31)) == 0.5
    assert share(b"\xc0" + bytes(31)) == 0.75
    assert share(b"\xff" * 32) < 1.0


def test_the_key_is_the_prompt_or_without_one_the_text() -> None:
    same = key(LabelledText("Good  film", 1))
    assert key(Demonstration("", "good film")) == same
    assert key(Demonstration("good film", "yes")) == same
    assert key(Comparison("good film", "yes", "no", "b")) == same
    # Without a prompt it is both responses in any order, so that people who disagree about a pair share a part.
    assert key(Comparison("", "good film", "no", "a")) == key(Comparison("", "no", "good film", "a"))
    assert key(Comparison("", "good film", "no", "a")) == key(Comparison("", "good film", "no", "b"))
    assert key(Comparison("", "good film", "no", "a")) != key(Comparison("", "good film", "yes", "a"))


def test_shares_are_80_10_10(movie_reviews: Splits) -> None:
    train, prompts, evaluation = (len(p.labelled) for p in parts(movie_reviews))
    total = 8530
    assert train + prompts + evaluation == total
    # Four standard deviations of a binomial count.
    assert abs(train - 0.8 * total) < 4 * (total * 0.8 * 0.2) ** 0.5
    assert abs(prompts - 0.1 * total) < 4 * (total * 0.1 * 0.9) ** 0.5


def test_no_text_is_in_two_parts(movie_reviews: Splits) -> None:
    texts = [{" ".join(r.text.lower().split()) for r in p.labelled} for p in parts(movie_reviews)]
    assert disjoint(texts)
    assert sum(map(len, texts)) == 8530


def test_texts_of_both_labels_become_demonstrations(texts: list[LabelledText]) -> None:
    for part in parts(cut([*texts])):
        assert {d.prompt for d in part.demonstrations} == {""}
        assert [d.response for d in part.demonstrations] == [t.text for t in part.labelled]
        assert {t.label for t in part.labelled} == {0, 1}


def test_splits_do_not_depend_on_the_order_of_records(texts: list[LabelledText]) -> None:
    records: list[Record] = [*texts, LabelledText("FILM number 7", 1), LabelledText("film number 7 ", 1)]
    shuffled = list(records)
    random.Random(0).shuffle(shuffled)
    assert cut(shuffled) == cut(records)


def test_the_fingerprint_does_not_depend_on_order_or_name(texts: list[LabelledText]) -> None:
    records: list[Record] = [*texts, *(comparison(i) for i in range(100))]
    fingerprint = cut(records).fingerprint
    shuffled = random.Random(0).sample(records, len(records))
    assert split("another name", shuffled, [], Counter()).fingerprint == fingerprint
    assert cut([*records, records[0]]).fingerprint == fingerprint  # a duplicate is left out


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: LabelledText(text.text + " !", text.label),
        lambda text: LabelledText(text.text.upper(), text.label),  # with the same hash, so in the same place
        lambda text: LabelledText(text.text, 1 - text.label),
    ],
)
def test_the_fingerprint_changes_with_one_text_or_label(
    changed: Callable[[LabelledText], LabelledText], texts: list[LabelledText]
) -> None:
    assert cut([*texts[:-1], changed(texts[-1])]).fingerprint != cut([*texts]).fingerprint


def test_the_fingerprint_changes_with_the_part_of_a_record(texts: list[LabelledText]) -> None:
    a, b, c = texts[:3]
    splits = Splits("x", train=Part((a, b)), prompts=Part((c,)), evaluation=Part(), dropped={})
    moved = Splits("x", train=Part((a,)), prompts=Part((b, c)), evaluation=Part(), dropped={})
    assert splits.fingerprint != moved.fingerprint


def test_a_text_stays_in_its_part_when_the_file_grows(texts: list[LabelledText]) -> None:
    small, large = cut([*texts[:100]]), cut([*texts])
    for before, after in zip(parts(small), parts(large), strict=True):
        assert set(before.labelled) <= set(after.labelled)


def test_duplicates_and_contradictory_labels_are_left_out_and_counted(texts: list[LabelledText]) -> None:
    more = [
        LabelledText("FILM  number 4", 0),  # label 0 already
        LabelledText("film number 4", 0),
        LabelledText("Film number 6", 1),  # label 0 already
    ]
    splits = cut([*texts, *more])
    assert splits.dropped == {"duplicate": 2, "contradictory label": 2}
    assert sum(len(p.labelled) for p in parts(splits)) == 199
    everything = [" ".join(d.response.lower().split()) for p in parts(splits) for d in p.demonstrations]
    assert everything.count("film number 4") == 1
    assert "film number 6" not in everything


def test_a_held_out_split_is_the_evaluation_and_is_removed_from_the_rest(texts: list[LabelledText]) -> None:
    held_out: list[Record] = [LabelledText("Film number 3", 1), LabelledText("never seen", 0)]
    splits = cut([*texts], held_out)
    assert {t.text for t in splits.evaluation.labelled} == {"Film number 3", "never seen"}
    assert splits.dropped == {"also in evaluation": 1}
    assert len(splits.train.labelled) + len(splits.prompts.labelled) == 199
    assert abs(len(splits.train.labelled) - 180) < 4 * (200 * 0.9 * 0.1) ** 0.5
    assert "film number 3" not in {t.text for t in (*splits.train.labelled, *splits.prompts.labelled)}


def comparison(i: int, choice: Literal["a", "b", "tie"] = "a", annotator: str = "") -> Comparison:
    return Comparison(f"prompt {i}", f"first {i}", f"second {i}", choice, annotator)


def test_preferred_responses_become_demonstrations() -> None:
    records: list[Record] = [comparison(i, "b") for i in range(100)]
    records += [comparison(i, "tie") for i in range(100, 120)]
    splits = cut(records)
    demonstrations = {d for p in parts(splits) for d in p.demonstrations}
    assert demonstrations == {Demonstration(f"prompt {i}", f"second {i}") for i in range(100)}
    assert sum(len(p.comparisons) for p in parts(splits)) == 120


def test_given_demonstrations_are_the_only_ones(texts: list[LabelledText]) -> None:
    own: list[Record] = [Demonstration(f"ask {i}", f"answer {i}") for i in range(100)]
    splits = cut([*texts, *own, own[0]])
    assert {d for p in parts(splits) for d in p.demonstrations} == set(own)
    assert splits.dropped == {"duplicate": 1}


def test_annotators_of_one_pair_share_a_part_and_all_count() -> None:
    votes = [comparison(i, "a", who) for i in range(100) for who in ("ann", "bob")]
    votes += [comparison(i, "b", "cy") for i in range(100)]
    splits = cut([*votes, votes[0]])
    assert splits.dropped == {"duplicate": 1}
    assert sum(len(p.comparisons) for p in parts(splits)) == 300
    prompts = [{c.prompt for c in p.comparisons} for p in parts(splits)]
    assert sum(map(len, prompts)) == 100


def test_records_of_different_kinds_may_share_a_text() -> None:
    records: list[Record] = [LabelledText(f"t {i}", i % 2) for i in range(100)]
    records += [Demonstration(f"t {i}", f"r {i}") for i in range(100)]
    records += [Comparison(f"t {i}", "good", "bad", "a") for i in range(100)]
    for part in parts(cut(records)):
        assert {t.text for t in part.labelled} == {d.prompt for d in part.demonstrations}
        assert {t.text for t in part.labelled} == {c.prompt for c in part.comparisons}


def test_too_few_records_are_refused_with_their_number(refused: Refused) -> None:
    message = refused(lambda: cut([LabelledText("good", 1), LabelledText("bad", 0)]))
    assert "out of 2; add records" in message


def test_an_evaluation_without_labels_or_comparisons_is_refused(refused: Refused) -> None:
    records: list[Record] = [Demonstration(f"ask {i}", f"answer {i}") for i in range(100)]
    assert "evaluation" in refused(lambda: cut([*records, comparison(1)], [Demonstration("held", "out")]))


def test_the_error_for_too_few_records_counts_those_left_out(refused: Refused) -> None:
    message = refused(lambda: split("x", [], [], Counter({"unlabelled": 5})))
    assert "5 of 5 records are left out (5 unlabelled)" in message


def test_equal_labels_are_refused(texts: list[LabelledText], refused: Refused) -> None:
    ones: list[Record] = [LabelledText(t.text, 1) for t in texts]
    assert "training labels are 1: add texts with the other label" in refused(lambda: cut(ones))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text("abAB ", min_size=1, max_size=3), st.sampled_from("ab")), max_size=40))
def test_no_prompt_is_in_two_parts(pairs: list[tuple[str, str]]) -> None:
    filler: list[Record] = [comparison(i) for i in range(60)]
    more = [Comparison(p, "yes", "no", "a" if c == "a" else "b") for p, c in pairs if p.strip()]
    keys = [{" ".join(c.prompt.lower().split()) for c in p.comparisons} for p in parts(cut([*filler, *more]))]
    assert disjoint(keys)


@pytest.mark.parametrize(
    ("lost", "reasons"), [(4, {"empty": 4}), (5, {"empty": 3, "duplicate": 2}), (49, {"empty": 49})]
)
def test_many_records_left_out_give_a_warning_with_the_reasons(
    lost: int, reasons: dict[str, int], texts: list[LabelledText]
) -> None:
    kept: list[Record] = [*texts[: 100 - lost]]
    repeated = reasons.get("duplicate", 0)
    splits = split("x", [*kept, *kept[:repeated]], [], Counter({"empty": reasons["empty"]}))
    assert splits.dropped == reasons
    if lost < 5:
        assert not splits.warning
    else:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        assert splits.warning == f"x: {lost} of 100 records are left out ({counts})"


@pytest.mark.parametrize("reason", ["empty", "unlabelled", "identical responses", "duplicate"])
def test_half_of_the_records_left_out_are_refused_with_the_reasons(
    reason: str, texts: list[LabelledText], refused: Refused
) -> None:
    repeated, counted = (texts, Counter()) if reason == "duplicate" else ([], Counter({reason: 200}))
    message = refused(lambda: split("x", [*texts, *repeated], [], counted))
    assert message.startswith(f"x: 200 of 400 records are left out (200 {reason})")


def test_few_distinct_prompts_are_refused_with_their_number(refused: Refused) -> None:
    records: list[Record] = [Comparison(f"ask {i % 2}", f"good {i}", f"bad {i}", "a") for i in range(300)]
    assert "only 2 distinct prompts" in refused(lambda: cut(records)) or "share" in refused(lambda: cut(records))


def asked(i: int) -> tuple[Message, ...]:
    return Message("system", "Be kind."), Message("user", f"ask {i}")


def ranking(i: int, annotator: str = "") -> Ranking:
    return Ranking(asked(i), (f"best {i}", f"good {i}", f"bad {i}"), annotator)


def test_the_best_of_a_ranking_becomes_a_demonstration() -> None:
    records: list[Record] = [ranking(i, who) for i in range(100) for who in ("ann", "bob")]
    splits = cut(records)
    for part in parts(splits):
        assert {r.prompt for r in part.rankings} == {d.prompt for d in part.demonstrations}
    assert {d for p in parts(splits) for d in p.demonstrations} == {
        Demonstration(asked(i), f"best {i}") for i in range(100)
    }


def test_rankings_are_duplicates_by_prompt_order_and_annotator() -> None:
    records: list[Record] = [ranking(i) for i in range(100)]
    other_order = Ranking(asked(1), ("bad 1", "good 1", "best 1"))
    splits = cut(
        [*records, ranking(1), Ranking(asked(1), ("BEST 1", "good  1", "bad 1")), other_order, ranking(1, "ann")]
    )
    assert splits.dropped == {"duplicate": 2}
    assert sum(len(p.rankings) for p in parts(splits)) == 102


def test_rankings_and_comparisons_of_one_prompt_share_a_part() -> None:
    records: list[Record] = [ranking(i) for i in range(100)]
    records += [Comparison(asked(i), f"fine {i}", f"poor {i}", "a") for i in range(100)]
    for part in parts(cut(records)):
        assert {r.prompt for r in part.rankings} == {c.prompt for c in part.comparisons}


def test_dialogues_with_the_same_first_turn_share_a_part() -> None:
    longer = [(*asked(i), Message("assistant", "which?"), Message("user", f"that {i}")) for i in range(100)]
    records: list[Record] = [Demonstration(asked(i), (Message("assistant", f"yes {i}"),)) for i in range(100)]
    records += [Demonstration(prompt, f"so {i}") for i, prompt in enumerate(longer)]
    for part in parts(cut(records)):
        first, again = ({d.prompt[1] for d in part.demonstrations if len(d.prompt) == n} for n in (2, 4))
        assert first == again
        assert first


def test_the_fingerprint_changes_with_the_order_of_a_ranking_and_with_a_turn() -> None:
    records: list[Record] = [ranking(i) for i in range(100)]
    other_order = Ranking(asked(0), ("good 0", "best 0", "bad 0"))
    other_turn = Ranking((Message("system", "Be brief."), *asked(0)[1:]), records[0].responses)  # type: ignore[union-attr]
    found = {cut([first, *records[1:]]).fingerprint for first in (records[0], other_order, other_turn)}
    assert len(found) == 3
