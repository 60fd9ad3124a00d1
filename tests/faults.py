"""The faults seen in published code, each done to ours: edits of src/plaudit and the tests that must notice.

A fault often has several variants. An edit is (file, text that occurs in it exactly once, text to put there).
`mutants.py` runs them; `test_mutants.py` keeps this table from growing stale.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    fault: int
    name: str
    tests: tuple[str, ...]
    edits: tuple[tuple[str, str, str], ...]


def _one(fault, name, tests, file, old, new):
    return Mutant(fault, name, tuple(tests.split()), ((file, old, new),))


HEADS, GENERATION, PACKING, TOKENIZER = (f"models/{n}.py" for n in ("heads", "generation", "packing", "tokenizer"))
TRUNK, CACHE, STATES = (f"models/{n}.py" for n in ("trunk", "cache", "states"))
ADVANTAGES, KL, LOSSES, MASKED = (f"maths/{n}.py" for n in ("advantages", "kl", "losses", "masked"))
PPO, ROLLOUT, SFT, ACTORS = (f"algorithms/{n}.py" for n in ("ppo", "rollout", "sft", "actors"))
EVALUATE = "evaluation/evaluate.py"
OPTIMIZER = "training/optimizer.py"

FIRST = "proofs/test_first_minibatch.py"
LATER = f"{FIRST}::test_later_the_policy_has_left_and_the_reference_has_not_moved"
AS_IDS = "algorithms/test_ppo.py::test_the_responses_of_an_iteration_are_drawn_and_scored_as_ids_up_to_the_cap"
STEERING = "algorithms/test_ppo.py::test_the_controller_and_the_schedule_reach_what_they_steer"
KL_STOP = "algorithms/test_ppo.py::test_an_update_stops_before_the_step_at_which_approximate_kl_passes_its_bound"
ANSWERS = "evaluation/test_evaluate.py::test_answers_are_measured_as_other_code_measures_them_one_by_one"
VERDICTS = "evaluation/test_evaluate.py::test_the_verdicts_are_those_of_a_judge_that_is_shown_the_responses_alone"
END_LEARNED = "algorithms/test_sft.py::test_the_end_of_a_text_is_learned"

_RAISE_LOSS = 'raise TrainingError(f"{where}: the loss is {loss.item()}; lower the learning rate, or look at the data")'
_LABEL = "return F.binary_cross_entropy_with_logits(scores, labels)"
_SCORE_AT_LAST = "in_float32(reward_model.score, hidden).squeeze(-1)"
_POLICY = "policy = Policy(load_causal_lm(policy_from)).to(run.device).eval()"
_REFERENCE = "reference = load_causal_lm(reference_from).to(run.device).eval()"
_REFERENCE_FROZEN = "reference.requires_grad_(False)"
_MOVED = "ids, mask, noise = (tensor.to(run.device) for tensor in (ids, mask, noise))"
_RANDOM_CAP = "noise = noise[:, : 1 + int(noise[0, 0] * noise.shape[1])]"
_ANSWERED = "return responses, score_responses(actors.reward_model, responses, run)"
_CUMULATIVE = "p = torch.softmax(logits.float(), dim=-1)"
_COUNTED = "nats += loss_of(model, batch, run).item() * count"

_ONE_AT_A_TIME = """    if len(prompts) > 1:
        alone = [respond(lm, [p], noise[i : i + 1], tokenizer, temperature, run) for i, p in enumerate(prompts)]
        width = max(a.response_mask.shape[1] for a in alone)
        said = torch.full((len(prompts), width), tokenizer.pad_id)
        alive = torch.zeros(len(prompts), width, dtype=torch.bool)
        for i, a in enumerate(alone):
            said[i, : a.response_ids.shape[1]] = a.response_ids[0]
            alive[i, : a.response_ids.shape[1]] = a.response_mask[0]
        ended = torch.cat([a.ended for a in alone])
        whole = torch.cat([ids, said], 1)
        nothing = alone[0].below.nothing(whole)
        return Responses(whole, torch.cat([mask, alive], 1), alive, ended, nothing, nothing)
    with run.autocast():
        return generate("""

_RETOKENISED = """from plaudit.models.tokenizer import collate

    tokenizer = actors.tokenizer
    read = [tokenizer.text(i[m].tolist()) for i, m in zip(responses.ids, responses.attention_mask, strict=True)]
    again = collate([tokenizer.demonstration("", t) for t in read], tokenizer.pad_id)
    anew = dataclasses.replace(responses, ids=again.ids, attention_mask=again.attention_mask)
    return responses, score_responses(actors.reward_model, anew, run)"""

_MEAN_OF_ROWS = """said = torch.zeros(mask.shape).masked_scatter(mask, logprobs_of(model, states, tokens[mask]))
    return -(said.sum(1) / mask.sum(1)).mean()"""

MUTANTS = (
    _one(1, "returns computed from whitened advantages", "algorithms/test_rollout.py", ROLLOUT,
         "return Experience(rollout, rewards, whiten(advantages, mask), returns)",
         "white = whiten(advantages, mask)\n    return Experience(rollout, rewards, white, white + rollout.values)"),
    _one(2, "whitening adds the mean back", "maths/test_masked.py", MASKED,
         "(masked_variance(x, mask) + 1e-8).sqrt())",
         "(masked_variance(x, mask) + 1e-8).sqrt() + masked_mean(x, mask))"),
    _one(2, "whitening scales and does not shift", "maths/test_masked.py", MASKED,
         "centred = x - masked_mean(x, mask)", "centred = x"),
    _one(3, "no eos appended", END_LEARNED, TOKENIZER,
         '"input_ids"], self.eos_id]', '"input_ids"]]'),
    Mutant(3, "pad is eos, and masked out of the labels", (END_LEARNED,), (
        (TOKENIZER, "hf.eos_token_id, _padding_id(hf))", "hf.eos_token_id, hf.eos_token_id)"),
        (TOKENIZER, "loss_mask[i, n:end] = True", "loss_mask[i, n:end] = ids[i, n:end] != pad_id"))),
    _one(3, "the loss ends one token before eos", "models/test_tokenizer.py", TOKENIZER,
         "loss_mask[i, n:end] = True", "loss_mask[i, n : end - 1] = True"),
    _one(4, "a random cap for each rollout", AS_IDS, ROLLOUT,
         _MOVED, f"{_RANDOM_CAP}\n    {_MOVED}"),
    _one(4, "no penalty for a missing eos", "algorithms/test_rollout.py", ROLLOUT,
         ".masked_fill(~ended, self.missing_eos)", ""),
    _one(4, "a fragment passes for a whole response", "models/test_generation.py", GENERATION,
         ".index_fill(0, rows[running], False)", ""),
    _one(5, "a noisy value head", "models/test_heads.py", HEADS,
         "nn.init.zeros_(self.value_head.weight)", "nn.init.normal_(self.value_head.weight)"),
    _one(6, "sigmoid inside the loss as well", "maths/test_losses.py", LOSSES,
         _LABEL, _LABEL.replace("scores", "torch.sigmoid(scores)")),
    _one(6, "sigmoid inside the model", "models/test_heads.py", HEADS,
         _SCORE_AT_LAST, f"torch.sigmoid({_SCORE_AT_LAST})"),
    _one(6, "a saturated probability as the reward", "algorithms/test_rollout.py", ROLLOUT,
         "((logits - self.mean) / self.std)", "torch.sigmoid(logits)"),
    _one(6, "the scale of the reward is not measured", "algorithms/test_rollout.py", ROLLOUT,
         "ScoreScale(logits.mean().item(), max(logits.std().item(), 1e-6), missing_eos)",
         "ScoreScale(0.0, 1.0, missing_eos)"),
    _one(7, "the judge is the optimised reward model", VERDICTS, EVALUATE,
         "judge.positive(answers.texts)", "(1 + answers.scores) / 2"),
    _one(7, "the prompt's sentiment counts", ANSWERS, EVALUATE,
         "self.tokenizer.continuation(p, t)", "self.tokenizer.text([*p, *t])"),
    _one(7, "other prompts after than before", ANSWERS, EVALUATE,
         "self.answer(self.policy, prompts, noise)", "self.answer(self.policy, prompts[::-1], noise)"),
    _one(7, "other random numbers after than before", ANSWERS, EVALUATE,
         "self.answer(self.policy, prompts, noise)", "self.answer(self.policy, prompts, noise.flip(1))"),
    _one(7, "another cap after than before", ANSWERS, EVALUATE,
         "self.answer(self.policy, prompts, noise)", "self.answer(self.policy, prompts, noise[:, :4])"),
    _one(7, "an interval of no width", "evaluation/test_metrics.py", "evaluation/metrics.py",
         "low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])", "low = high = values.mean()"),
    _one(8, "KL is not logged", LATER, PPO, '"kl": mean_kl,', '"kl": 0.0,'),
    _one(8, "the penalty is left out of the reward", "maths/test_advantages.py", ADVANTAGES,
         "-kl_coef * (logprobs", "-0.0 * (logprobs"),
    _one(8, "only a fixed coefficient", STEERING, PPO, 'if settings.kl_control == "adaptive":', "if False:"),
    _one(8, "the controller is not clipped", "maths/test_kl.py", KL,
         "min(max(kl / target - 1, -0.2), 0.2)", "kl / target - 1"),
    _one(9, "no gradient clipping", "training/test_optimizer.py", OPTIMIZER,
         "min(1.0, max_grad_norm / (norm + 1e-6))", "1.0"),
    _one(9, "gradients at shadows are clipped for and left out of the norm", "models/test_precision.py", OPTIMIZER,
         "_norm(gradients.values(), room)",
         "_norm([g for g in gradients.values() if g.dtype == torch.float32], room)"),
    _one(9, "the share of clipping is measured and not applied", "training/test_optimizer.py", OPTIMIZER,
         "grad_scale=scale,", "grad_scale=None,"),
    _one(9, "no value clipping", "maths/test_losses.py", LOSSES,
         "torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)", "(values - returns) ** 2"),
    _one(9, "no ratio clipping", "maths/test_losses.py", LOSSES,
         "torch.maximum(-advantages * ratio, -advantages * clipped)", "-advantages * ratio"),
    _one(9, "no schedule in PPO, though one is logged", STEERING, PPO,
         "optim.set_lr(optimizer, lr)", "optim.set_lr(optimizer, settings.lr)"),
    _one(9, "no schedule in SFT, though one is logged", "training/test_fit.py", "training/fit.py",
         "optim.set_lr(optimizer, lr)", "optim.set_lr(optimizer, settings.lr)"),
    _one(9, "no KL stop", KL_STOP, PPO,
         'if history and stats["approx_kl"] > settings.kl_stop:', "if False:"),
    _one(9, "a bad loss is multiplied by zero and stepped on", "training/test_optimizer.py", OPTIMIZER,
         _RAISE_LOSS, "loss = loss * 0"),
    _one(9, "a bad gradient is stepped on", "training/test_optimizer.py", OPTIMIZER,
         "if not math.isfinite(norm):", "if False:"),
    _one(10, "the ragged last minibatch is left out", "test_batches.py", "batches.py",
         "for start in range(0, len(order), size):", "for start in range(0, len(order) - size + 1, size):"),
    _one(10, "the ragged last minibatch is filled from the first", "test_batches.py", "batches.py",
         "order[start : start + size]", "order[np.arange(start, start + size) % len(order)]"),
    _one(10, "the ragged last batch is never visited", "training/test_order.py", "training/order.py",
         "for i in range(0, n, batch_size)]", "for i in range(0, n - batch_size + 1, batch_size)]"),
    _one(11, "one prompt at a time", "algorithms/test_rollout.py", ROLLOUT,
         "    with run.autocast():\n        return generate(", _ONE_AT_A_TIME),
    _one(11, "decoded and tokenised again for the reward model", AS_IDS, PPO,
         _ANSWERED, _RETOKENISED),
    _one(12, "temperature in the policy's scoring left out", FIRST, ROLLOUT,
         "logits_of(lm, states, temperature)", "logits_of(lm, states)"),
    _one(12, "temperature in the reference's scoring left out", FIRST, ROLLOUT,
         "logits_of(reference, ref_states, temperature)", "logits_of(reference, ref_states)"),
    _one(12, "temperature in learning left out", FIRST, PPO,
         "rollout.response_ids[mask], settings.temperature)", "rollout.response_ids[mask])"),
    _one(12, "temperature in all scoring left out", "models/test_heads.py", HEADS,
         "return logits if temperature == 1 else logits / temperature", "return logits"),
    _one(12, "temperature in the slope of a frozen head left out", "models/test_heads.py", HEADS,
         ".div_(-temperature)", ".neg_()"),
    _one(12, "temperature in rounded scoring left out", "models/test_precision.py", HEADS,
         "states.float() / temperature, head.weight", "states.float(), head.weight"),
    _one(12, "temperature in sampling left out", "models/test_generation.py", GENERATION,
         "logits_of(lm, last, temperature)", "logits_of(lm, last)"),
    _one(12, "rollouts sampled at temperature 1 whatever is scored", AS_IDS, PPO,
         "actors.tokenizer, temperature, run, *actors.depths)", "actors.tokenizer, 1.0, run, *actors.depths)"),
    _one(12, "top-k in sampling", "models/test_generation.py", GENERATION, _CUMULATIVE,
         f"logits = logits.masked_fill(logits < logits.topk(2).values[:, -1:], -torch.inf)\n    {_CUMULATIVE}"),
    _one(13, "dropout in rollouts", FIRST, ACTORS, _POLICY, _POLICY.replace("eval()", "train()")),
    _one(13, "dropout in the reference", FIRST, ACTORS, _REFERENCE, _REFERENCE.replace("eval()", "train()")),
    _one(13, "dropout between old and new logprobs", FIRST, PPO,
         "history: list[dict[str, float]] = []", "history: list[dict[str, float]] = []\n    policy.train()"),
    _one(14, "positions count the padding", "models/test_heads.py::test_left_and_right_padding_agree", TRUNK,
         "(attention_mask.long().cumsum(-1) - 1).clamp(min=0)",
         "torch.arange(attention_mask.shape[1]).expand(attention_mask.shape)"),
    _one(14, "positions after the first token are one too high", "models/test_generation.py", CACHE,
         "position_ids(self.mask)[:, -ids.shape[1] :]",
         "position_ids(self.mask)[:, -ids.shape[1] :] + (len(self.mask[0]) > len(ids[0]))"),
    _one(14, "the reward model is read one past an early eos", "models/test_heads.py", HEADS,
         "hidden_states(reward_model, ids, attention_mask, columns == last[:, None], below)",
         '__import__("plaudit.models.trunk", fromlist=[""]).padded_hidden_states(reward_model, ids, attention_mask)'
         "[torch.arange(len(ids)), (last + 1).clamp(max=ids.shape[1] - 1)]"),
    _one(14, "the score lands one past an early eos", "maths/test_advantages.py", ADVANTAGES,
         "response_mask.sum(1, keepdim=True) - 1",
         "response_mask.sum(1, keepdim=True).clamp(max=response_mask.shape[1] - 1)"),
    _one(14, "positions of packed texts run on", "models/test_packing.py", PACKING,
         "laid_out(position, 0)", "laid_out(place % size, 0)"),
    _one(14, "packed texts see one another", "models/test_packing.py", PACKING,
         "((texts == texts.transpose(1, 2)) & causal)[:, None]", "causal.expand(rows, 1, size, size)"),
    _one(14, "rows that go on take the places of those that left", "proofs/test_equalities.py", GENERATION,
         "tokens[rows, t] = token", "tokens[: len(rows), t] = token"),
    _one(14, "rows that go on take the cache of those that left", "proofs/test_equalities.py", GENERATION,
         "reader.keep(stay)", "reader.keep(torch.arange(left))"),
    _one(14, "kept states lie one column early", "models/test_generation.py", GENERATION,
         "states[rows, width + t] = these[:, 0]", "states[rows, width + t - 1] = these[:, 0]"),
    _one(14, "kept states of rows that go on lie where others' were", "models/test_generation.py",
         GENERATION, "states[rows, width + t] = these[:, 0]", "states[: len(rows), width + t] = these[:, 0]"),
    _one(14, "the end token leaves no state", "models/test_generation.py", GENERATION,
         "unread = drew if depth else running", "unread = running"),
    _one(14, "the token at the cap leaves no state", "models/test_generation.py", GENERATION,
         "if t + 1 < cap or depth:", "if t + 1 < cap:"),
    _one(14, "the states of a text are given to another", "models/test_states.py", STATES,
         "for i, row in enumerate(rows):", "for i, row in enumerate(sorted(rows)):"),
    _one(14, "states that were passed on are taken for those of other texts", "models/test_states.py", STATES,
         "(earlier.depth, earlier.texts) == (depth, texts)", "earlier.depth == depth"),
    _one(14, "both texts of a comparison begin with the same states", "algorithms/test_on_a_trunk.py",
         "algorithms/reward_model.py", "rows * len(some[0].texts) + k", "rows * len(some[0].texts)"),
    _one(14, "padding is looked at once it has been read", "models/test_cache.py", CACHE,
         "(order <= order[-now:, None]) & (self.mask[:, None] | (order == order[-now:, None]))",
         "(order <= order[-now:, None]).expand(len(ids), -1, -1)"),
    _one(14, "minibatches cut the ids and not the states", "test_batches.py", "batches.py",
         "rollout.below.states[:, first:end]", "rollout.below.states"),
    _one(14, "a reward model that left the trunk is read from it", "algorithms/test_actors.py", ACTORS,
         "shared = share_below(policy.lm, reward_model, depth)",
         "shared = share_below(policy.lm, reward_model, depth) or depth"),
    _one(15, "masked mean: a mean of row means", "maths/test_masked.py", MASKED,
         "return masked_sum(x, mask) / count", "return (x.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)).mean()"),
    _one(15, "SFT loss: a mean of row means", "proofs/test_equalities.py", SFT,
         "return causal_lm_loss(logprobs_of(model, states, tokens[mask]))", _MEAN_OF_ROWS),
    Mutant(15, "perplexity: a mean of batch means",
           ("algorithms/test_sft.py::test_perplexity_depends_neither_on_batching_nor_on_what_is_kept",),
           ((SFT, _COUNTED, _COUNTED.removesuffix(" * count")), (SFT, "tokens += count", "tokens += 1"))),
    _one(15, "PPO loss: a mean of row means", "proofs/test_equalities.py", LOSSES,
         "return masked_mean(losses, response_mask), stats",
         "rows = losses.masked_fill(~response_mask, 0.0).sum(1) / response_mask.sum(1)\n    return rows.mean(), stats"),
    _one(15, "value loss: padding counts in the denominator", "proofs/test_equalities.py", LOSSES,
         "masked_sum(losses, response_mask) / response_mask.sum()",
         "masked_sum(losses, response_mask) / response_mask.numel()"),
    _one(16, "k1 with its sign reversed", "proofs/test_estimators.py", KL,
         "return logprobs - ref_logprobs", "return ref_logprobs - logprobs"),
    _one(16, "k3 with its arguments swapped", "proofs/test_estimators.py", KL,
         "log_ratio = ref_logprobs - logprobs", "log_ratio = logprobs - ref_logprobs"),
    _one(16, "KL(reference || policy) in the rollout", "proofs/test_estimators.py", ROLLOUT,
         "kl_of_logprobs(logp, ref_logp)", "kl_of_logprobs(ref_logp, logp)"),
    _one(16, "KL(reference || policy) in the evaluation", ANSWERS, EVALUATE,
         "unflatten(said[2], mask)",
         "unflatten(compare(self.sft, ref_states, lm, states, responses.response_ids[mask], temperature)[2], mask)"),
    _one(16, "the penalty rewards distance", "proofs/test_gradient.py", ADVANTAGES,
         "(logprobs - ref_logprobs)).masked_fill", "(ref_logprobs - logprobs)).masked_fill"),
    _one(16, "the logged k1 with its sign reversed", STEERING, PPO,
         "(rollout.logprobs - rollout.ref_logprobs)", "(rollout.ref_logprobs - rollout.logprobs)"),
    _one(17, "advantages wrong by a thousandth of lam", "maths/test_advantages.py", ADVANTAGES,
         "delta + gamma * lam * next_advantage", "delta + 0.999 * gamma * lam * next_advantage"),
    _one(17, "the score wrong by a thousandth", "maths/test_advantages.py", ADVANTAGES,
         "scatter_add(1, last, scores[:, None])", "scatter_add(1, last, 1.001 * scores[:, None])"),
    _one(17, "the value loss wrong by a thousandth", "maths/test_losses.py", LOSSES,
         "return 0.5 * masked_sum", "return 0.5005 * masked_sum"),
    _one(17, "KL wrong by a thousandth", "maths/test_kl.py", KL,
         "return (logp.exp() * (logp - ref_logp)).sum(-1)", "return 1.001 * (logp.exp() * (logp - ref_logp)).sum(-1)"),
    _one(17, "whitening with a large epsilon", "maths/test_masked.py", MASKED, "+ 1e-8).sqrt()", "+ 1e-3).sqrt()"),
    _one(17, "the upper clip wrong by a thousandth", "maths/test_losses.py", LOSSES,
         "clamp(1 - clip_range, 1 + clip_range)", "clamp(1 - clip_range, 1 + 1.001 * clip_range)"),
    _one(17, "the sampled gradient is a tenth too small", "proofs/test_gradient.py", LOSSES,
         "torch.maximum(-advantages * ratio, -advantages * clipped)",
         "0.9 * torch.maximum(-advantages * ratio, -advantages * clipped)"),
    Mutant(18, "the reference is the policy", (LATER,), (
        (ACTORS, _REFERENCE, "reference = policy.lm"), (ACTORS, _REFERENCE_FROZEN, ""))),
    _one(18, "tied embeddings learn under frozen blocks", "models/test_trunk.py", TRUNK,
         "lm.requires_grad_(False)", "blocks(lm).requires_grad_(False)"),
    _one(18, "the reference shares the policy's trainable embeddings", LATER, ACTORS, _REFERENCE_FROZEN,
         f"{_REFERENCE_FROZEN}\n        reference.set_input_embeddings(policy.lm.get_input_embeddings())"),
    _one(18, "the frozen blocks learn", "models/test_trunk.py", TRUNK,
         "for part in (*blocks(lm)[depth:], _norm(lm)):", "for part in (*blocks(lm), _norm(lm)):"),
    _one(18, "a policy that left the trunk is compared on it", "algorithms/test_actors.py", ACTORS,
         "depth = share_below(policy.lm, reference, depth)", "share_below(policy.lm, reference, depth)"),
    _one(18, "trunks that differ are taken for one", "models/test_trunk.py", TRUNK,
         "takewhile(lambda pair: _same(*pair), both)", "both"),
    _one(18, "embeddings that learn are shared", "models/test_trunk.py", TRUNK,
         "if not depth or type(", "if type("),
)  # fmt: skip
