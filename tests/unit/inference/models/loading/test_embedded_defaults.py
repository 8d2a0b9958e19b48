"""Models that need no hub: made once, the same everywhere, served by the same code as any other."""

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_svc.engine.runner import Row
from inference_svc.errors import ModelLoadError
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.models.checkpoint import quiet
from inference_svc.models.defaults import default_folder
from inference_svc.models.loading import load_model
from inference_svc.models.warming import warm_up
from inference_svc.requests import (
    Context,
    EmbedWork,
    EncodedInput,
    Generation,
    Message,
    OutputDetail,
    Sampling,
    ScoreWork,
    Task,
)
from inference_svc.results import finish_scores, finish_vectors
from transformers import AutoModel, AutoTokenizer

torch.set_num_threads(1)


def untold(_line: str) -> None:
    pass


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def chat(cache: Path) -> LoadedModel:
    spec = ModelSpec("chat", Task.GENERATE, "embedded:tiny-chat", slot_count=2)
    return load_model(spec, cache_folder=cache, progress=untold)


@pytest.fixture(scope="module")
def embed(cache: Path) -> LoadedModel:
    return load_model(ModelSpec("embed", Task.EMBED, "embedded:minilm"), cache_folder=cache, progress=untold)


@pytest.fixture(scope="module")
def score(cache: Path) -> LoadedModel:
    return load_model(ModelSpec("score", Task.SCORE, "embedded:tiny-score"), cache_folder=cache, progress=untold)


@pytest.mark.parametrize("name", ["tiny-chat", "tiny-score"])
def test_a_model_made_twice_is_the_same_to_the_byte(name: str, tmp_path: Path) -> None:
    first = default_folder(name, tmp_path / "one", untold)
    second = default_folder(name, tmp_path / "two", untold)
    assert digests(first) == digests(second)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(digests(first))


def test_tokens_and_weights_are_those_of_every_other_machine(cache: Path, chat: LoadedModel) -> None:
    """Pinned: a change here is a change of recipe and wants a new number in the folder's name."""
    assert chat.tokenizer.encode_text("The model reads the words.") == [306, 708, 918, 262, 688, 16]
    weights = hashlib.sha256((cache / "tiny-chat-2" / "model.safetensors").read_bytes()).hexdigest()
    assert weights.startswith("db8c795b179b450f")


def test_a_model_made_is_not_made_again(tmp_path: Path) -> None:
    told: list[str] = []
    default_folder("tiny-score", tmp_path, told.append)
    default_folder("tiny-score", tmp_path, told.append)
    assert len(told) == 1


def test_many_may_make_a_model_at_once(tmp_path: Path) -> None:
    start, found = threading.Barrier(4), []

    def make() -> None:
        start.wait(timeout=30)
        found.append(default_folder("tiny-score", tmp_path, untold))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [tmp_path / "tiny-score-2"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-score-2"], "no draft is left"


def test_a_cache_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ModelLoadError, match="cache folder"):
        default_folder("tiny-chat", tmp_path / "cache", untold)


def test_an_unknown_default_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="tiny-chat"):
        default_folder("huge-chat", tmp_path, untold)


def test_the_chat_model_says_that_it_is_untrained(chat: LoadedModel, score: LoadedModel, embed: LoadedModel) -> None:
    assert "nonsense" in chat.info.notice
    assert "SEAM_CHAT_MODEL" in chat.info.notice
    assert "untrained" in score.info.notice
    assert embed.info.notice == ""


def test_what_is_loaded_tells_what_it_is(chat: LoadedModel, embed: LoadedModel, score: LoadedModel) -> None:
    assert (chat.info.architecture, chat.info.limits.max_context_tokens) == ("LlamaForCausalLM", 2048)
    assert chat.info.vocabulary_size == chat.tokenizer.vocabulary_size == 1834
    assert (embed.info.dimension_count, embed.info.limits.max_context_tokens) == (384, 256)
    assert score.info.labels == ("negative", "neutral", "positive")
    assert {one.info.dtype for one in (chat, embed, score)} == {"float32"}


def test_every_default_warms_up(chat: LoadedModel, embed: LoadedModel, score: LoadedModel) -> None:
    for loaded in (chat, embed, score):
        list(warm_up(loaded))


def test_the_chat_model_answers_in_readable_words(chat: LoadedModel) -> None:
    ids = chat.tokenizer.encode_chat([Message("user", "Tell me something.")], True)
    generation = generation_of(tuple(ids))
    chat.runner.open(0, generation)
    answer: list[int] = []
    fed, start = list(ids), 0
    for index in range(20):
        sampled = chat.runner.step([Row(0, start, fed, samples=True, output_index=index)])[0]
        answer.append(sampled.token_id)
        start, fed = start + len(fed), [sampled.token_id]
    chat.runner.close(0)
    text = chat.tokenizer.decode(answer)
    assert text.isascii()
    assert text.isprintable()
    assert len(set(answer)) > 5


def generation_of(prompt_ids: tuple[int, ...]):

    return Generation(
        "chat", Context(), None, prompt_ids, (), Sampling(seed=1), frozenset(), (), 0, 32, None, OutputDetail()
    )


def test_embeddings_equal_mean_pooling_and_normalising_by_hand(embed: LoadedModel, cache: Path) -> None:
    texts = ("A seam.", "x", "The committee met three times. " * 20, "snow ☃ 日本語", "A seam.")
    folder = default_folder("minilm", cache, untold)
    with quiet():
        model, wrapper = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = []
    for index, text in enumerate(texts):
        ids, types = embed.tokenizer.encode_pair(text, None)
        inputs.append(EncodedInput(index, tuple(ids), None if types is None else tuple(types)))
    vectors = finish_vectors(EmbedWork(texts), embed.info, embed.runner.encode(inputs))
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            hidden = model(**wrapper(text, padding=False, truncation=False, return_tensors="pt")).last_hidden_state
            expected = torch.nn.functional.normalize(hidden.mean(1))[0].numpy()
        assert float(vector @ expected) > 0.99999
        assert np.abs(vector - expected).max() < 1e-5


def test_scores_of_pairs_depend_on_both_texts(score: LoadedModel) -> None:
    inputs = []
    for index, (text, pair) in enumerate([("a cat", "an animal"), ("a cat", "a stone"), ("an animal", "a cat")]):
        ids, types = score.tokenizer.encode_pair(text, pair)
        assert types is not None
        assert set(types) == {0, 1}
        inputs.append(EncodedInput(index, tuple(ids), tuple(types)))
    scores = finish_scores(ScoreWork(()), score.info, score.runner.encode(inputs))
    assert np.allclose(scores.sum(axis=1), 1)
    assert len({row.tobytes() for row in scores}) == 3


def test_how_a_chat_model_is_computed_is_told(cache: Path) -> None:
    told: list[str] = []
    load_model(ModelSpec("chat", Task.GENERATE, "embedded:tiny-chat"), cache_folder=cache, progress=told.append)
    assert [line for line in told if line.startswith("chat: how it is computed: 29 linear layers packed, ")]
