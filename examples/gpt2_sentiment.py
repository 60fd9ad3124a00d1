"""The GPT-2 sentiment example that left TRL with its PPOTrainer: continue film reviews as a classifier likes them."""

from statistics import mean, median

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import plaudit
from plaudit.data.embedded import imdb
from plaudit.training.metrics import read_jsonl

reviews = [each for each in imdb() if len(each.text) > 200]
classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=5))
classifier.fit([each.text for each in reviews], [each.label for each in reviews])


def positive(prompts: list[str], responses: list[str]) -> list[float]:
    """The log-odds that each prompt with its response is positive."""
    return classifier.decision_function([p + r for p, r in zip(prompts, responses, strict=True)])


settings = {"model": "movie-gpt2", "prompt_min": 2, "prompt_max": 8, "sft.epochs": 0, "evaluation.prompts": 256,
            "ppo.iterations": 20, "ppo.batch_size": 256, "ppo.min_new_tokens": 4, "ppo.max_new_tokens": 16}  # fmt: skip
for seed in range(1, 11):
    run = plaudit.open_run(f"runs/sentiment/{seed}", [r.text for r in reviews], {**settings, "seed": seed})
    list(plaudit.steps(run, ["sft", "ppo", "evaluation"], positive))
    for key in ("sft_score", "policy_score"):
        scores = [line[key] for line in read_jsonl(run.path / "responses.jsonl")]
        print(seed, key, f"{mean(scores):.2f} median {median(scores):.2f} positive {mean(s > 0 for s in scores):.0%}")
