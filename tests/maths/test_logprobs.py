import math

import torch

from plaudit.maths.logprobs import entropy, predicting, token_logprobs


def test_prediction_of_a_token_is_the_state_one_before_it():
    def places(*mask):
        return predicting(torch.tensor([mask]), 5).nonzero()[:, 1].tolist()

    assert places(True, True) == [2, 3]  # tokens 3 and 4
    assert places(True, False) == [2]  # token 3
    assert places(True, True, True, True) == [0, 1, 2, 3]  # all but the first


def test_token_logprobs_of_hand_made_distributions():
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)], [math.log(4.0), math.log(1.0)]]])
    got = token_logprobs(logits, torch.tensor([[1, 1]]))
    torch.testing.assert_close(got, torch.tensor([[math.log(3 / 4), math.log(1 / 5)]]))


def test_entropy_of_a_fair_and_of_a_certain_choice():
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(entropy(logits), torch.tensor([[math.log(4), 0.0]]))
