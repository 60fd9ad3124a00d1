import numpy as np
import torch

from plaudit.batches import Experience, Rollout


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
    )
    order = np.random.default_rng(0).permutation(rows)
    parts = list(Experience(rollout, column, column, column).minibatches(order, 4))
    assert [len(p.rewards) for p in parts] == [4, 4, 2]
    seen = torch.cat([p.rollout.scores for p in parts])
    assert seen.tolist() == order.tolist()
    for p in parts:  # every tensor of a part speaks of the same rows
        assert torch.equal(p.rollout.ids[:, 0].float(), p.rollout.scores)
        assert torch.equal(p.advantages[:, 0], p.rollout.scores)
    assert torch.equal(parts[0].rollout.response_ids, parts[0].rollout.ids[:, -r:])
