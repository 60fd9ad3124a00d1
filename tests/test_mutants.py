"""The mutants fit the code and the tests as they are. `make mutants` runs them."""

import inspect

import pytest
import torch
from faults import MUTANTS
from mutants import ROOT, Mutant

from plaudit.maths.kl import kl_k1
from plaudit.models.plain import PlainEngine
from plaudit.training import rollouts

# Faults of the methods beside PPO, of which each has a mutant of its own.
OF_METHODS = {
    "the penalty is left out of REINFORCE",
    "the penalty is left out of RLOO",
    "the penalty is left out of GRPO",
    "the baseline of a response includes itself",
    "the baseline of a group includes the response itself",
    "k3 in the loss in place of KL in the reward",
    "k3 in the loss is taken for KL",
    "the estimate over the vocabulary is k3",
    "a mean over the tokens of a response",
    "advantages of a group with equal rewards",
    "the deviation of a group is that of a population",
    "a group is always divided by its deviation",
    "a group's loss is a mean over each response",
    "the penalty in the loss is a sum over each response",
    "DPO: chosen and rejected are swapped",
    "DPO: without the reference",
    "DPO: the references are swapped",
    "DPO: label smoothing is left out",
    "DPO: label smoothing is on the wrong side",
    "DPO compares means",
    "IPO: the target is 1 / beta",
    "SimPO: sums over the tokens",
    "SimPO: the margin has the wrong sign",
    "KTO measures the KL on the responses that it learns from",
    "KTO measures the KL of the reference from the policy",
    "KTO: good and bad are swapped",
    "best-of-n imitates the first response",
}


def test_every_fault_seen_in_published_code_has_a_mutant():
    assert set(range(1, 19)) <= {mutant.fault for mutant in MUTANTS}


def test_every_fault_of_the_methods_beside_ppo_has_a_mutant():
    assert OF_METHODS - {mutant.name for mutant in MUTANTS} == set()


def test_no_two_mutants_have_one_name():
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.fault}: {mutant.name}")
def test_the_targets_exist_and_the_replacements_take_their_arguments(mutant):
    for _, _, original, replacement in mutant.replacements():
        assert replacement is not original
        parameters = inspect.signature(original).parameters.values()
        by_position = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        by_name = {p.name: None for p in parameters if p.kind == p.KEYWORD_ONLY}
        inspect.signature(replacement).bind(*by_position, **by_name)


def test_the_tests_that_must_catch_the_mutants_exist():
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        file, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_a_mutant_replaces_a_function_where_it_is_defined_and_where_it_is_imported(monkeypatch):
    mutant = Mutant(0, "adaptive KL", (), ("maths.kl.adapt_kl_coef",), lambda original: lambda *args: 0.0)
    mutant.inject(monkeypatch.setattr)
    assert rollouts.adapt_kl_coef(0.1, 6.0, 6.0, 1, 1) == 0.0


def test_a_mutant_of_an_import_leaves_the_function_itself_alone(monkeypatch):
    mutant = Mutant(0, "KL", (), ("models.plain.kl_of_logprobs",), lambda original: lambda *args: None)
    mutant.inject(monkeypatch.setattr)
    from plaudit.maths.kl import kl_of_logprobs

    logp = torch.zeros(1, 1)
    assert kl_of_logprobs(logp, logp) == 0


def test_mutants_of_methods_and_of_several_functions(monkeypatch):
    targets = ("models.plain.PlainEngine.prepare", "maths.kl.kl_k1")
    mutant = Mutant(0, "two", (), targets, lambda prepare, k1: (lambda self: "method", lambda *args: k1(*args) + 1))
    mutant.inject(monkeypatch.setattr)
    assert PlainEngine().prepare() == "method"
    from plaudit.maths import kl

    assert kl.kl_k1(torch.ones(1, 1), torch.ones(1, 1)) == kl_k1(torch.ones(1, 1), torch.ones(1, 1)) + 1 == 1
