import math

import torch

from plaudit.maths.logprobs import entropy_of_logprobs, predicting, token_logprobs


def test_a_token_is_predicted_at_the_position_before_it():
    def positions(*mask):
        return predicting(torch.tensor([mask]), 5).nonzero()[:, 1].tolist()

    assert positions(True, True) == [2, 3]  # predict tokens 3 and 4
    assert positions(True, False) == [2]  # predicts token 3
    assert positions(True, True, True, True) == [0, 1, 2, 3]  # predict all tokens but the first


def test_token_logprobs_by_hand():
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)], [math.log(4.0), math.log(1.0)]]])
    got = token_logprobs(logits, torch.tensor([[1, 1]]))
    torch.testing.assert_close(got, torch.tensor([[math.log(3 / 4), math.log(1 / 5)]]))


def test_entropy_of_a_uniform_and_of_a_certain_distribution():
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(entropy_of_logprobs(logits.log_softmax(-1)), torch.tensor([[math.log(4), 0.0]]))
