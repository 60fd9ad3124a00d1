"""Two models of a run, and what is said of their answers: score, judge, KL, and the probability of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from plaudit import rng
from plaudit.batches import Responses, to_device
from plaudit.chat.models import BASE, settings_of
from plaudit.chat.session import Sampling
from plaudit.config import ALGORITHMS
from plaudit.data.prompts import holds_dialogues
from plaudit.errors import PlauditError
from plaudit.evaluation.judge import Judge, judge_for
from plaudit.maths.masked import unflatten
from plaudit.models.loading import load_causal_lm, window
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Tokenizer, join_prompts
from plaudit.records import Text, asking
from plaudit.rewards import Reward
from plaudit.training.engine import Engine, choose_engine
from plaudit.training.models import Models
from plaudit.training.prompts import check_window, evaluation_prompts
from plaudit.training.rewards import as_reward, needs_reward_model
from plaudit.training.rollouts import generate
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

ALTERNATIVES = 5  # likeliest tokens that are told in the place of each token
_CONTEXT = 4  # tokens before a token that its text is read with
_STEPS = ("reading the data", "opening the models", "opening the reward", "opening the judge")


def noise_for(sampling: Sampling, message: str, turn: int) -> Float64[Tensor, "B R"]:
    """Random numbers for the answers to a message; in the first turn (0) those of `evaluation.evaluate.sample`."""
    return rng.uniforms(range(sampling.answers), sampling.max_new_tokens, sampling.seed, "sample", turn, message)


@dataclass(frozen=True)
class Side:
    """A model that answers."""

    name: str
    lm: Any
    tokenizer: Tokenizer
    engine: Engine
    comparable: bool  # whether its tokens are those of the run, so that a KL from the reference exists


class Sides:
    """The models that answer, with the run's reference, reward and judge.

    Args:
        names: stages of the run, BASE, folders or hub ids.
        tell: called with steps that are done, all steps, and what comes next.
    """

    def __init__(self, run: Run, names: Sequence[str], tell: Callable[[int, int, str], None]) -> None:
        self.run = run
        self.stage = settings_of(run.path, names)
        tell(0, len(_STEPS), _STEPS[0])
        self.chats = run.summary("sft").get("chat", False) if run.complete("sft") else holds_dialogues(run.data.train)
        tell(1, len(_STEPS), _STEPS[1])
        reference = self._folder("sft") if run.complete("sft") else run.config.model
        self.tokenizer = open_tokenizer(run, reference)
        own = [self._folder(name) for name in names if name == BASE or name in ALGORITHMS]
        policy = next((folder for folder in own if folder != reference), reference)
        self.no_score = ""
        wanted = needs_reward_model(run)
        if wanted and not run.complete("reward_model"):
            self.no_score = f"no finished reward_model here; run: plaudit reward-model --out {run.path}"
        judged_by = run.model("reward_model") if wanted and not self.no_score else None
        self.models = Models.of(run, self.stage, policy, reference, judged_by, self.tokenizer, value_head=False)
        there = {reference: self.models.reference, policy: self.models.policy.lm}
        self.sides = [self._side(name, there) for name in names]
        tell(2, len(_STEPS), _STEPS[2])
        self.reward = self._open_reward()
        tell(3, len(_STEPS), _STEPS[3])
        self.judge, self.no_judge = self._open_judge()

    def _folder(self, name: str) -> str:
        if name == BASE:
            return self.run.config.model
        return self.run.model(name) if name in ALGORITHMS else name

    def _side(self, name: str, there: dict[str, Any]) -> Side:
        """A model by name; `there` are those that are open already, by folder, and one more is added to them."""
        folder = self._folder(name)
        if folder in there and (name == BASE or name in ALGORITHMS):
            return Side(name, there[folder], self.tokenizer, self.models.engine, comparable=True)
        tokenizer = open_tokenizer(self.run, folder)
        lm = there[folder] = load_causal_lm(folder).to(self.run.device).eval().requires_grad_(False)
        engine = choose_engine(self.run, self.stage, lm)
        engine.prepare(lm)
        same = tokenizer.hf.get_vocab() == self.tokenizer.hf.get_vocab() and tokenizer.end_ids == self.tokenizer.end_ids
        return Side(name, lm, tokenizer, engine, comparable=same)

    def _open_reward(self) -> Reward | None:
        if self.no_score:
            return None
        try:
            return as_reward(self.run, None, self.models, getattr(self.run.config, self.stage).lower_bound)
        except PlauditError as error:  # the answers are worth reading all the same
            self.no_score = str(error)
            return None

    def _open_judge(self) -> tuple[Judge | None, str]:
        config = self.run.config
        try:
            return judge_for(self.run.data, config.evaluation.judge, config.reward_timeout)
        except PlauditError as error:
            return None, str(error)

    def evaluation_prompts(self) -> list[Text]:
        """The first prompts of the run's evaluation that leave room for a response; none where the data has none."""
        try:
            found = evaluation_prompts(self.run, self.tokenizer)[: self.run.config.evaluation.prompts]
        except PlauditError:
            return []
        limit = window(self.models.reference) - getattr(self.run.config, self.stage).max_new_tokens
        return [prompt for prompt in found if self._fits(prompt, limit)]

    def _fits(self, prompt: Text, limit: int) -> bool:
        try:
            return len(self.tokenizer.prompt(prompt)) <= limit
        except PlauditError:  # the chat template refuses it
            return False

    @torch.no_grad()
    def answer(
        self, side: Side, prompt: Text, sampling: Sampling, noise: Float64[Tensor, "B R"]
    ) -> list[dict[str, Any]]:
        """Answers of a model to a prompt, each with what is said of it.

        Raises:
            ModelError: prompt and answer do not fit into the model's window.
            ConversationError: the chat template refuses the dialogue.
        """
        ids = side.tokenizer.prompt(prompt)
        check_window([ids], sampling.max_new_tokens, window(side.lm))
        policy = Policy(side.lm, side.engine, value_head=False)
        prompts = [ids] * len(noise)
        responses = generate(policy, prompts, noise, side.tokenizer, sampling.temperature)
        tokens, mask = responses.tokens(), responses.response_mask
        texts = [side.tokenizer.continuation(ids, each) for each in tokens]
        batch = (responses.ids, responses.attention_mask, mask)
        logprobs, _ = side.engine.logprobs(side.lm, *batch, sampling.temperature)
        likeliest = side.engine.top_tokens(side.lm, responses, ALTERNATIVES, sampling.temperature)
        columns: dict[str, list[Any]] = {
            "text": texts,
            "ids": tokens,
            "pieces": [pieces(side.tokenizer, ids, each) for each in tokens],
            "ended": responses.ended.tolist(),
            "logprobs": _rows(logprobs, tokens),
            "alternatives": [
                [_alternatives(side.tokenizer, [*ids, *each[:place]], *one) for place, one in enumerate(row)]
                for each, row in zip(
                    tokens, _rows(zip(*(t.tolist() for t in likeliest), strict=True), tokens), strict=True
                )
            ],
        }
        columns |= self._kl(side, responses, sampling.temperature) if side.comparable else {}
        columns |= self._scores(side, prompt, responses, texts)
        if self.judge is not None:
            verdicts = self.judge.positive(texts, [asking(prompt)] * len(texts))
            columns["judge"] = [float(verdict) for verdict in verdicts]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _kl(self, side: Side, responses: Responses, temperature: float) -> dict[str, list[Any]]:
        """KL from the reference, by answer and by token, and the reference's log-probabilities."""
        engines, dtype = (side.engine, self.models.engine), self.run.dtype
        plain = any(isinstance(engine, PlainEngine) for engine in engines)
        engine = PlainEngine(dtype) if plain else side.engine
        found, tokens = engine.compare(side.lm, self.models.reference, responses, temperature), responses.tokens()
        return {
            "kl": unflatten(found.kl, responses.response_mask).sum(1).tolist(),
            "token_kl": _rows(found.kl, tokens),
            "ref_logprobs": _rows(found.ref_logprobs, tokens),
        }

    def _scores(self, side: Side, prompt: Text, responses: Responses, texts: list[str]) -> dict[str, list[Any]]:
        """Scores as reports show them, and each part of the reward; without a score, the reason."""
        if self.reward is None:
            return {}
        try:
            read = responses if side.comparable else self._in_own_tokens(prompt, texts, responses.ended.tolist())
            measured = self.reward.measured(read)
            scores = self.reward.shown(self.reward.total(measured).cpu().double())
        except PlauditError as error:
            return {"no_score": [str(error)] * len(texts)}
        rows = zip(*(values.double().tolist() for values in measured.values()), strict=True)
        return {"score": scores.tolist(), "parts": [dict(zip(measured, row, strict=True)) for row in rows]}

    def _in_own_tokens(self, prompt: Text, texts: list[str], ended: list[bool]) -> Responses:
        """Answers of a model with other tokens, in the run's tokens, which its reward model reads."""
        begun, rows = self.tokenizer.prompt(prompt), []
        for text, whole in zip(texts, ended, strict=True):
            response = self.tokenizer.demonstration(prompt, text)[-1]
            rows.append((begun, response if whole or len(response) == 1 else response[:-1]))
        return to_device(join_prompts(rows, ended, self.tokenizer.pad_id), self.run.device)


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], response: Sequence[int]) -> list[str]:
    """The text of each token. A character of several tokens is the text of its last one, and the others have none."""
    found, waiting, before = list[str](), list[int](), [*prompt[-_CONTEXT:]]
    for place, token in enumerate(response):
        following = response[place + 1 : place + 2]
        waiting.append(token)
        text = tokenizer.continuation(before, waiting)
        goes_on = following and following[0] not in tokenizer.control_ids and len(waiting) < _CONTEXT
        if text.endswith("\ufffd") and goes_on:
            found.append("")
            continue
        found.append(text)
        before, waiting = [*before, *waiting][-_CONTEXT:], []
    return found


def _alternatives(
    tokenizer: Tokenizer, before: Sequence[int], logprobs: Sequence[float], tokens: Sequence[int]
) -> list[tuple[str, float, int]]:
    """The text of each token that could stand here, its log-probability, and its id."""
    texts = [tokenizer.continuation(before[-_CONTEXT:], [token]) for token in tokens]
    names = tokenizer.hf.convert_ids_to_tokens([*tokens])
    shown = [text if text and "\ufffd" not in text else name for text, name in zip(texts, names, strict=True)]
    return [*zip(shown, logprobs, tokens, strict=True)]


def _rows(values: Any, tokens: Sequence[Sequence[int]]) -> list[list[Any]]:
    """N values, one for each token of all responses, as a list for each response."""
    left = iter(values.tolist() if isinstance(values, Tensor) else values)
    return [[next(left) for _ in each] for each in tokens]
