import re

import pytest

from plaudit.algorithms.actors import Actors
from plaudit.lesson.actors import by_part, memory_table


def test_every_parameter_belongs_to_one_part(bare_run):
    actors = Actors.load(bare_run())
    parts = by_part(actors.policy)
    assert list(parts) == ["embeddings", "block 1", "block 2", "last norm", "value head"]
    every = [p for found in parts.values() for p in found]
    assert len(every) == len(list(actors.policy.parameters()))
    assert sum(p.numel() for p in parts["value head"]) == 33
    assert list(by_part(actors.reward_model)) == ["embeddings", "block 1", "block 2", "last norm", "score head"]


def columns_of(actors):
    """(head, thousands of parameters by part) of every column."""
    page = memory_table(actors).text
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page)
    lines = re.findall(r"<tr>(.*?)</tr>", page)[1:]
    rows = [re.findall(r"<td[^>]*>(?:<code>)?(.*?)(?:</code>)?</td>", line) for line in lines]
    return [(head, {r[0]: float(r[i] or 0) for r in rows}) for i, head in enumerate(heads) if i]


@pytest.mark.parametrize("common", [True, False])
def test_what_is_frozen_is_counted_once_and_shown_as_shared(bare_run, common):
    """The policy's top block learns: the reference shares the rest, the reward model only where it is SFT's below."""
    actors = Actors.load(bare_run(train_layers=1, reward_on_sft=common))
    (_, policy), (_, learns), (_, reference), (_, shared), (_, reward_model), (_, rewards_share) = columns_of(actors)
    for part, parameters in by_part(actors.policy).items():
        assert policy[part] == pytest.approx(sum(p.numel() for p in parameters) / 1000, abs=0.051)
    assert learns["embeddings"] == learns["block 1"] == 0
    assert learns["block 2"] == policy["block 2"] == reference["block 2"]
    assert shared["block 1"] == policy["block 1"]
    assert shared["block 2"] == shared["last norm"] == 0
    assert reward_model["block 1"] == policy["block 1"]
    if common:
        assert rewards_share["block 1"] == policy["block 1"]
    else:  # but for tensors that are equal all the same: what is zero in both
        assert rewards_share["block 1"] < 0.05 * policy["block 1"]
    assert rewards_share["block 2"] == rewards_share["score head"] == 0


def test_the_heads_of_the_columns(bare_run):
    heads = [head for head, _ in columns_of(Actors.load(bare_run()))]
    assert heads == ["policy", "of it learns", "reference", "of it shared", "reward model", "of it shared"]
