"""What a runner computed becomes what was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from inference_svc.requests import (
    EmbedWork,
    ModelInfo,
    ModelLimits,
    ScoreActivation,
    ScoreInput,
    ScoreWork,
    Task,
)
from inference_svc.results import finish_scores, finish_vectors

INFO = ModelInfo(
    name="m",
    task=Task.EMBED,
    source="s",
    architecture="a",
    limits=ModelLimits(8, 0, 8, 100),
    device="cpu",
    dtype="float32",
    vocabulary_size=10,
    dimension_count=4,
)
ROWS = np.array([[3, 4, 12, 0], [0, 0, 0, 0], [1e30, 1e30, 0, 0]], dtype=np.float32)
ASKED = (ScoreInput("a"),)


def test_vectors_have_length_one() -> None:
    vectors = finish_vectors(EmbedWork(("a",)), INFO, ROWS)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors[0], np.array([3, 4, 12, 0]) / 13)
    assert np.allclose(vectors[2], [0.5**0.5, 0.5**0.5, 0, 0])


def test_a_zero_vector_stays_zero() -> None:
    assert not finish_vectors(EmbedWork(("a",)), INFO, ROWS)[1].any()


def test_a_vector_that_holds_nan_still_does() -> None:
    assert np.isnan(finish_vectors(EmbedWork(("a",)), INFO, np.full((1, 4), np.nan, dtype=np.float32))).all()


def test_leading_dimensions_are_kept_and_normalised_again() -> None:
    vectors = finish_vectors(EmbedWork(("a",), dimension_count=2), INFO, ROWS)
    assert np.allclose(vectors[0], [0.6, 0.8])


def test_vectors_are_left_as_they_are_when_asked() -> None:
    vectors = finish_vectors(EmbedWork(("a",), dimension_count=3, normalize=False), INFO, ROWS)
    assert np.array_equal(vectors, ROWS[:, :3])
    vectors[0, 0] = 0
    assert ROWS[0, 0] == 3, "the answer is not a view of the runner's rows"


@pytest.mark.parametrize("own", [ScoreActivation.SIGMOID, ScoreActivation.SOFTMAX, ScoreActivation.NONE])
def test_the_models_own_activation_is_what_its_configuration_says(own: ScoreActivation) -> None:
    logits = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
    info = replace(INFO, score_activation=own)
    asked, left = ScoreWork(ASKED, activation=own), ScoreWork(ASKED)
    assert np.array_equal(finish_scores(left, info, logits), finish_scores(asked, INFO, logits))


def test_softmax_sums_to_one_and_bears_great_logits() -> None:
    scores = finish_scores(
        ScoreWork(ASKED, activation=ScoreActivation.SOFTMAX), INFO, np.array([[1000, 1001], [-5, -5]], dtype=np.float32)
    )
    assert np.allclose(scores.sum(axis=1), 1)
    assert np.allclose(scores[1], 0.5)


def test_sigmoid_takes_each_label_on_its_own_and_bears_great_logits() -> None:
    scores = finish_scores(
        ScoreWork(ASKED, activation=ScoreActivation.SIGMOID), INFO, np.array([[0, 1000, -1000]], dtype=np.float32)
    )
    assert np.allclose(scores, [[0.5, 1, 0]])


def test_logits_are_left_as_they_are_when_asked() -> None:
    logits = np.array([[3, -1]], dtype=np.float32)
    assert np.array_equal(finish_scores(ScoreWork(ASKED, activation=ScoreActivation.NONE), INFO, logits), logits)
