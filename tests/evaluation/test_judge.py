import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from plaudit.data.embedded import rotten_tomatoes
from plaudit.evaluation.judge import FilmJudge, imdb_judge, vectorizer
from recipes.imdb_judge import train

PRAISE = ["a wonderful film", "a wonderful joy", "wonderful !", "a film"] * 10
BLAME = ["a dull film", "dull , a bore", "dull , dull", "no film"] * 10


def test_the_judge_is_accurate_on_unseen_reviews_and_sentences():
    judge = imdb_judge()
    assert judge.accuracy_imdb > 0.87
    assert judge.accuracy(rotten_tomatoes()) > 0.70


def test_clear_praise_scores_high_and_clear_blame_low():
    good, bad = imdb_judge().positive(["A wonderful, moving film; superb.", "a dull , terrible waste of time ."])
    assert good > 0.8
    assert bad < 0.2


def test_the_recipe_trains_the_judge_in_the_package(tmp_path):
    texts = [r.text for r in rotten_tomatoes()]
    shipped, trained = imdb_judge(), train()
    assert shipped.positive(texts) == pytest.approx(trained.positive(texts), abs=1e-3)
    assert shipped.accuracy_imdb == pytest.approx(trained.accuracy_imdb, abs=1e-3)
    trained.save(tmp_path / "judge")
    assert (FilmJudge.load(tmp_path / "judge").positive(texts) == trained.positive(texts)).all()


def test_probabilities_equal_those_of_the_sklearn_pipeline():
    tfidf, regression = vectorizer(), LogisticRegression()
    texts, labels = PRAISE + BLAME, [1] * len(PRAISE) + [0] * len(BLAME)
    pipeline = make_pipeline(tfidf, regression).fit(texts, labels)
    judge = FilmJudge(
        tfidf.get_feature_names_out().tolist(), tfidf.idf_, regression.coef_[0], float(regression.intercept_[0])
    )
    unseen = ["a wonderful bore", "dull !", "unknown words only", ""]
    assert judge.positive(unseen) == pytest.approx(pipeline.predict_proba(unseen)[:, 1], abs=1e-6)
    assert np.ptp(judge.positive(unseen)) > 0.3
