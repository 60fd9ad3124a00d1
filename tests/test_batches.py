import numpy as np
import torch

from plaudit.batches import Below, Experience, Rollout


def test_minibatches_visit_every_row_once_and_keep_the_ragged_last():
    rows, r = 10, 3
    mask = torch.ones(rows, r, dtype=torch.bool)
    column = torch.arange(rows).float()[:, None].expand(rows, r)
    rollout = Rollout(
        ids=torch.arange(rows)[:, None].expand(rows, 5),
        attention_mask=torch.ones(rows, 5, dtype=torch.bool),
        response_mask=mask,
        logprobs=column,
        ref_logprobs=column,
        values=column,
        scores=torch.arange(rows).float(),
        below=Below(column[:, :1, None].expand(rows, 5, 2), 3),
    )
    order = np.random.default_rng(0).permutation(rows)
    parts = list(Experience(rollout, column, column, column).minibatches(order, 4))
    assert [len(p.rewards) for p in parts] == [4, 4, 2]
    seen = torch.cat([p.rollout.scores for p in parts])
    assert seen.tolist() == order.tolist()
    for p in parts:  # every tensor of a part speaks of the same rows
        assert torch.equal(p.rollout.ids[:, 0].float(), p.rollout.scores)
        assert torch.equal(p.advantages[:, 0], p.rollout.scores)
        assert torch.equal(p.rollout.below.states[:, 4, 1], p.rollout.scores)
        assert p.rollout.below.depth == 3
    assert torch.equal(parts[0].rollout.response_ids, parts[0].rollout.ids[:, -r:])


def test_minibatches_drop_columns_that_are_padding_in_every_row():
    lengths, left = torch.tensor([2, 4, 1]), torch.tensor([1, 2, 2])  # response tokens; padding left of the prompt
    columns = torch.arange(7)  # three prompt columns, four of response
    attention_mask = (columns >= left[:, None]) & (columns < 3 + lengths[:, None])
    response_mask = torch.arange(4) < lengths[:, None]
    numbers = torch.arange(12.0).view(3, 4)
    ids = torch.arange(21).view(3, 7)
    below = Below(-ids[..., None].float(), 1)
    rollout = Rollout(ids, attention_mask, response_mask, numbers, numbers, numbers, lengths.float(), below)
    first, second = Experience(rollout, numbers, numbers, numbers).minibatches(np.array([0, 2, 1]), 2)
    assert first.rollout.ids.tolist() == [[1, 2, 3, 4], [15, 16, 17, 18]]
    assert first.rollout.response_mask.tolist() == [[True, True], [True, False]]
    assert first.returns.tolist() == [[0.0, 1.0], [8.0, 9.0]]
    assert first.rollout.response_ids.tolist() == [[3, 4], [17, 18]]
    assert torch.equal(first.rollout.below.states[..., 0], -first.rollout.ids.float())  # of the same tokens
    assert second.rollout.ids.tolist() == [[9, 10, 11, 12, 13]]  # its own longest row is kept whole
