"""A classifier of another library as the reward: scikit-learn, fitted on labelled sentences when the file is imported.

plaudit run --reward examples/third_party_classifier.py:positive --out runs/classifier

It printed: PPO raised the mean score from 0.01 to 3.27 [3.11, 3.45] at 7.9 nats of KL. An independent judge calls 99 %
of the responses positive, 61 % before. WARNING: The responses have become alike: distinct pairs fell by over 30 %.

A classifier that transformers opens needs no file: plaudit run --reward FOLDER_OR_HUB_ID:LABEL
"""

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from plaudit.data.corpus import load

labelled = load("movie-reviews").train.labelled
classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=5.0))
classifier.fit([each.text for each in labelled], [each.label for each in labelled])


def positive(prompts: list[str], responses: list[str]) -> list[float]:
    """The log-odds that each response, with its prompt, is positive."""
    return classifier.decision_function([p + r for p, r in zip(prompts, responses, strict=True)])
