import numpy as np
import torch

from plaudit.algorithms.ppo import PPOBatch
from plaudit.batches import (
    JudgedBatch,
    Responses,
    Rollout,
    number_of_rows,
    select_rows,
    split_rows,
    to_device,
)


def some_batch(rows=10, r=3):
    """A batch with batches inside, in which every number of a row is the row's number."""
    row = torch.arange(rows)
    column = row.float()[:, None].expand(rows, r)
    responses = Responses(row[:, None].expand(rows, 5), torch.ones(rows, 5) > 0, torch.ones(rows, r) > 0, row > 3)
    rollout = Rollout(responses, column, column, column, column, column, row.float(), row.float())
    return PPOBatch(rollout, column, column, column, column)


def rows_of(batch):
    """The row numbers of every tensor in a batch of `some_batch`."""
    rollout = batch.rollout
    columns = [rollout.responses.ids[:, 0], rollout.logprobs[:, 0], rollout.scores, batch.values[:, 0]]
    return {tuple(column.int().tolist()) for column in (*columns, batch.advantages[:, 0], batch.returns[:, 0])}


def test_parts_visit_every_row_once_and_the_last_may_be_smaller():
    batch, order = some_batch(), np.random.default_rng(0).permutation(10)
    parts = list(split_rows(batch, order, 4))
    assert [number_of_rows(part) for part in parts] == [4, 4, 2]
    assert [rows_of(part) for part in parts] == [{tuple(order[i : i + 4].tolist())} for i in (0, 4, 8)]
    assert parts[0].rollout.responses.ended.tolist() == [bool(row > 3) for row in order[:4]]


def test_the_texts_of_a_judgement_stay_together():
    ids = torch.stack([torch.arange(12).view(4, 3), -torch.arange(12).view(4, 3)], 1)
    mask = torch.ones(4, 2, 3) > 0
    mask[2, 1] = False
    batch = JudgedBatch(ids, mask, torch.arange(4.0), torch.zeros(4))
    part = select_rows(batch, torch.tensor([2, 0]))
    assert part.ids[:, 0].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert torch.equal(part.ids[:, 1], -part.ids[:, 0])
    assert part.weight.tolist() == [2.0, 0.0]
    assert part.present.tolist() == [[True, False], [True, True]]
    assert number_of_rows(batch) == 4


def test_a_batch_moves_as_a_whole():
    moved = to_device(some_batch(), torch.device("meta"))
    assert {moved.values.device.type, moved.rollout.scores.device.type, moved.rollout.responses.ids.device.type} == {
        "meta"
    }


def test_prompts_and_responses_are_found_between_the_padding():
    responses = Responses(
        ids=torch.tensor([[9, 9, 1, 2, 3, 9], [9, 4, 5, 6, 7, 8]]),
        attention_mask=torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]) > 0,
        response_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]) > 0,
        ended=torch.tensor([True, False]),
    )
    assert responses.prompts() == [[1], [4, 5]]
    assert responses.tokens() == [[2, 3], [6, 7, 8]]
    assert responses.response_ids.tolist() == [[2, 3, 9], [6, 7, 8]]
    assert responses.prompt_mask.tolist() == [[False, False, True], [False, True, True]]
