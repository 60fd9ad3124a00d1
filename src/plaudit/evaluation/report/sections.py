"""The body of the page, part by part; a part without figures is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plaudit.evaluation.report import figures
from plaudit.evaluation.report.figures import BEFORE, COST, Panel
from plaudit.evaluation.report.files import RunFiles, as_table, as_tables
from plaudit.evaluation.report.fragments import card, fold, grid, inert, responses, section, table, tiles
from plaudit.evaluation.report.words import (
    FRONTIER_HEADS,
    bracketed,
    duration,
    interval,
    number,
    point_cells,
    verdict,
    warnings,
    written,
)

MOST_SAMPLES = 40  # fixed prompts on the page
_STEP, _ITERATION = "optimizer step", "iteration"

_LENGTH = (
    Panel("response_length", "response length (tokens)", "{:.1f}"),
    Panel("eos_rate", "eos rate (share that ended before the cap)"),
)
_HEALTH = (
    Panel("entropy", "entropy (nats per token)"),
    Panel("clip_fraction", "clip fraction (share of tokens)", "{:.3f}"),
    Panel("explained_variance", "explained variance (1 is perfect)"),
)
_REST = (
    Panel("reward", "reward (score minus the price of KL)"),
    Panel("score_normalised", "normalised score (standard deviations)"),
    Panel("kl_k1", "KL, sampled estimate k1 (nats per response)", "{:.1f}", COST),
    Panel("kl_coef", "kl_coef (score per nat)", "{:.3f}", COST),
    Panel("approx_kl", "approximate KL of the update (nats per token)", "{:.4f}"),
    Panel("ratio_mean", "ratio, mean", "{:.3f}"),
    Panel("ratio_max", "ratio, largest"),
    Panel("distinct_2", "distinct pairs (share; low is all alike)"),
    Panel("perplexity_ref", "perplexity under SFT", "{:.1f}"),
    Panel("policy_loss", "policy loss", "{:.3f}"),
    Panel("value_loss", "value loss", "{:.3f}"),
    Panel("grad_norm", "gradient norm, before clipping"),
    Panel("lr", "learning rate", "{:.1e}", BEFORE),
    Panel("optimizer_steps", "optimizer steps in the iteration", "{:.0f}", BEFORE),
)


def opening(run: RunFiles) -> str:
    """What was run, what came of it, and what to doubt."""
    evaluation = run.table("evaluation.json")
    meta, seconds = as_table(evaluation.get("meta")), sum(run.seconds().values())
    facts = (
        f"{run.settings.get('model', '?')} on {run.settings.get('data', '?')}",
        f"seed {run.settings.get('seed', '?')}",
        f"{meta['prompts']} held-out prompts" if "prompts" in meta else "",
        " ".join(str(meta[key]) for key in ("device", "dtype") if key in meta),
        duration(seconds) if seconds else "",
    )
    iterations = number(run.settings, "ppo.iterations")
    said = verdict(evaluation, run.lines("ppo/metrics.jsonl"), iterations)
    out = [f"<header><h1>{inert(run.name)}</h1>", f'<p class="facts">{inert(" · ".join(filter(None, facts)))}</p>']
    out += [f'<p class="verdict">{inert(said)}</p>']
    out += [f'<p class="notice"><b>Look closer.</b> {inert(w)}</p>' for w in warnings(evaluation)]
    if run.broken:
        out += [f'<p class="notice"><b>Left out, because unreadable:</b> {inert(", ".join(run.broken))}.</p>']
    if run.missing:
        out += [f'<p class="notice quiet">Not in this run directory (yet): {inert(", ".join(run.missing))}.</p>']
    return "\n".join(out) + "</header>\n" + tiles(as_table(evaluation.get("sft")), as_table(evaluation.get("policy")))


def training(run: RunFiles) -> str:
    """PPO over its iterations."""
    rows = run.lines("ppo/metrics.jsonl")
    score = (Panel("score", "mean score (−1 to 1)"),)
    kl = (Panel("kl", "KL from the SFT model (nats per response)", "{:.1f}", COST),)
    body = grid(
        (
            card(
                "Score",
                figures.series("score", rows, score, _ITERATION),
                "Of the responses sampled in each iteration: this is what PPO is asked to raise.",
            ),
            card(
                "KL",
                figures.series("kl", rows, kl, _ITERATION),
                "What it cost: how far the policy has moved from the model it started as.",
            ),
            card(
                "Score bought with KL",
                figures.score_against_kl(rows),
                "A point an iteration, stronger as training goes on. Where they level off, more KL buys nothing.",
            ),
            card(
                "Held-out scores, before and after",
                figures.score_histogram(run.lines("responses.jsonl")),
                "Both models answer the same prompts with the same random numbers. The dashed line is the mean.",
            ),
            card(
                "Length and ending",
                figures.series("length", rows, _LENGTH, _ITERATION, 165),
                "A score that rises along with the length, or while fewer responses end, may be a trick.",
            ),
            card(
                "Health of the updates",
                figures.series("health", rows, _HEALTH, _ITERATION, 110),
                "Entropy near 0 is one answer to everything; a clip fraction over 0.3 means steps too large.",
            ),
        )
    )
    if not body:
        return ""
    rest = grid(card("", figures.series(f"rest-{i}", rows, _REST[i : i + 7], _ITERATION, 110)) for i in (0, 7))
    lead = "Thin lines are single iterations, thick ones a running mean; the number is its last value."
    return section("What PPO did", lead, body + fold("Everything else that PPO logged", rest))


def frontier(run: RunFiles) -> str:
    """PPO beside best-of-n."""
    found = run.table("frontier.json")
    best, policies = ([p for p in as_tables(found.get(of)) if _drawable(p)] for of in ("best_of_n", "ppo"))
    caption = "Orange: best-of-n, by n. Blue: policies on the way of PPO, each line with its kl_coef; 95 % intervals."
    body = grid(
        (
            card("Score", figures.frontier(best, policies, "score_mean", "mean score (−1 to 1)"), caption),
            card("Judge", figures.frontier(best, policies, "judge_positive", "share judged positive")),
        )
    )
    if not body:
        return ""
    lead = (
        "Best-of-n draws n responses of the SFT model and keeps the one that scores highest; nothing is trained. "
        + inert(" ".join(map(str, found.get("said", []))))
    )
    rows = (point_cells(p, ("kl", "score", "judge", "distinct_2", "length")) for p in (*best, *policies))
    name = "All points; of PPO its kl_coef and iteration"
    return section("PPO beside best-of-n", lead, body + fold(name, table(FRONTIER_HEADS, rows)))


def _drawable(point: dict[str, Any]) -> bool:
    keys = ("kl_mean", "score_mean", "judge_positive", "n" if "n" in point else "kl_coef")
    ends = [interval(point, key) for key in ("score_ci95", "judge_ci95")]
    return None not in (*ends, *(number(point, key) for key in keys))


def samples(run: RunFiles) -> str:
    """The fixed prompts."""
    rows = run.lines("samples.jsonl")[:MOST_SAMPLES]
    lead = "The same few prompts in every run, in strong type; after them, what the model wrote."
    return section("The same prompts, before and after", lead, responses(rows)) if rows else ""


def held_out(run: RunFiles) -> str:
    """Held-out prompts: some at even distances, and those at the ends of what happened."""
    both = ("sft_score", "policy_score")
    rows = [r for r in run.lines("responses.jsonl") if None not in (number(r, key) for key in both)]
    if not rows:
        return ""

    def rise(row: dict[str, Any]) -> float:
        return row["policy_score"] - row["sft_score"]

    def doubt(row: dict[str, Any]) -> float:
        judge = number(row, "policy_judge")
        return -1.0 if judge is None else (row["policy_score"] + 1) / 2 - judge  # both are probabilities now

    def most(key: Callable[[dict[str, Any]], float]) -> list[dict[str, Any]]:
        return sorted(rows, key=key, reverse=True)[:5]

    groups = {
        f"Ten at even distances among {len(rows)}, not chosen by hand": rows[:: max(1, len(rows) // 10)][:10],
        "Where the score rose most": [r for r in most(rise) if rise(r) > 0],
        "Where the score fell most": [r for r in most(lambda row: -rise(row)) if rise(r) < 0],
        "Where the reward model is content and the judge is not": [r for r in most(doubt) if doubt(r) > 0.2],
    }
    body = "".join(fold(name, responses(group)) for name, group in groups.items() if group)
    return section("Held-out prompts", "Beginnings of texts that no stage was trained on.", body)


def reward_model(run: RunFiles) -> str:
    """How far the reward model can be trusted."""
    summary = run.table("reward_model/summary.json")
    pairs = summary.get("kind") == "comparisons"
    body = grid(
        (
            card(
                "Calibration",
                figures.calibration(as_tables(summary.get("calibration")), "preferred" if pairs else "positive"),
                "On held-out data. The area of a dot is the number of cases in it.",
            ),
            card(
                "Accuracy by margin",
                figures.accuracy_by_margin(as_tables(summary.get("accuracy_by_margin"))),
                "On held-out data, with 95 % intervals. It should be right more often where it is surer.",
            ),
        )
    )
    accuracy, gap = number(summary, "accuracy"), number(summary, "ece")
    slope = number(summary, "length_correlation")
    lead = "The model of people's judgement that PPO is trained against."
    if accuracy is not None:
        ends = bracketed(interval(summary, "accuracy_ci95"), "{:.1%}")
        lead += (
            f" On held-out data it decides {written(accuracy, '{:.1%}')} {ends}".rstrip() + " of cases as people did."
        )
    if gap is not None:
        lead += f" Its expected calibration error is {written(gap, '{:.3f}')}."
    if slope is not None:
        lead += f" Its logit correlates with the length of the text at {written(slope, '{:.2f}')}."
    return section("The reward model", lead, body) if body or accuracy is not None else ""


def earlier_stages(run: RunFiles) -> str:
    """How SFT and the reward model learned."""
    loss = (Panel("loss", "loss (nats per token)", colour=COST),)
    curves = (Panel("loss", "loss (nats)", colour=COST), Panel("accuracy", "accuracy on the batch (share)"))
    body = grid(
        (
            card(
                "Supervised fine-tuning",
                figures.series("sft", run.lines("sft/metrics.jsonl"), loss, _STEP),
                "How much the next token of a training text surprises the model.",
            ),
            card(
                "Reward model",
                figures.series(
                    "reward-model", run.lines("reward_model/metrics.jsonl"), curves, _STEP, figures.TALL // 2
                ),
                "A loss of ln 2 ≈ 0.69 and an accuracy of 0.5 are guessing.",
            ),
        )
    )
    summary = run.table("sft/summary.json")
    before, after = number(summary, "perplexity_before"), number(summary, "perplexity")
    lead = "Fine-tuning makes the language model write texts of this kind; then the reward model learns to judge them."
    if before is not None and after is not None:
        lead += f" Fine-tuning took the perplexity of held-out texts from {before:.1f} to {after:.1f}."
    return section("The stages before PPO", lead, body) if body or after is not None else ""
