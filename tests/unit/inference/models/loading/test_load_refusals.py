"""A model that cannot be served says which it is and what to do about it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from inference_svc.errors import ModelLoadError
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.models.checkpoint import quiet
from inference_svc.models.defaults import default_folder
from inference_svc.models.loading import load_model
from inference_svc.requests import EncodedInput, ScoreActivation, Task
from safetensors.torch import save_file

torch.set_num_threads(1)

SMALL = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def untold(_line: str) -> None:
    pass


def load(source: object, task: Task, tmp_path: Path, **spec: Any) -> LoadedModel:
    return load_model(ModelSpec("mine", task, str(source), **spec), cache_folder=tmp_path / "cache", progress=untold)


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = default_folder("tiny-score", tmp_path_factory.mktemp("cache"), untold)
    return {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}


@pytest.fixture
def folder(tmp_path: Path, tokenizer_files: dict[str, bytes]) -> Path:
    """A folder with a tokenizer; the test writes the model."""
    made = tmp_path / "model"
    made.mkdir()
    for name, content in tokenizer_files.items():
        (made / name).write_bytes(content)
    return made


def write(model_class: Any, config: Any, folder: Path) -> None:
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(1)
        model_class(config).save_pretrained(folder)


def bert(**changes: Any) -> Any:
    return hf.BertConfig(**SMALL, max_position_embeddings=64, **changes)


def test_every_refusal_names_the_model_and_its_source(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model mine \(embedded:nothing\) cannot be served"):
        load("embedded:nothing", Task.EMBED, tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no folder"):
        load(tmp_path / "gone", Task.EMBED, tmp_path)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        load(tmp_path / "empty", Task.EMBED, tmp_path)


def test_a_hub_that_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="no hub can be reached"):
        load("nobody-here/nothing-there", Task.GENERATE, tmp_path)


def test_a_name_that_no_hub_could_have(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="neither a folder here nor a hub name"):
        load("what is this", Task.GENERATE, tmp_path)


def test_weights_that_are_not_safetensors(folder: Path, tmp_path: Path) -> None:
    bert().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ModelLoadError, match=r"no \.safetensors weights"):
        load(folder, Task.EMBED, tmp_path)


def test_weights_that_are_cut_off(folder: Path, tmp_path: Path) -> None:
    write(hf.BertModel, bert(), folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelLoadError, match="weights cannot be read"):
        load(folder, Task.EMBED, tmp_path)


def test_a_model_that_brings_its_own_code(folder: Path, tmp_path: Path) -> None:
    config = {"model_type": "its_own", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelLoadError, match="code from its own repository"):
        load(folder, Task.EMBED, tmp_path)


def test_an_architecture_that_transformers_does_not_know(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(ModelLoadError, match="unheard_of"):
        load(folder, Task.EMBED, tmp_path)


def test_a_config_that_is_not_json(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"config\.json cannot be used"):
        load(folder, Task.EMBED, tmp_path)


def test_an_encoder_that_is_asked_to_chat(folder: Path, tmp_path: Path) -> None:
    write(hf.BertForMaskedLM, bert(), folder)
    with pytest.raises(ModelLoadError, match="BertForMaskedLM is not a causal language model"):
        load(folder, Task.GENERATE, tmp_path)


def test_an_encoder_without_a_classifier_that_is_asked_to_score(folder: Path, tmp_path: Path) -> None:
    write(hf.BertModel, bert(), folder)
    with pytest.raises(ModelLoadError, match=r"is not a sequence classifier.*classifier\.weight"):
        load(folder, Task.SCORE, tmp_path)


def test_an_encoder_decoder(folder: Path, tmp_path: Path) -> None:
    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    write(hf.T5ForConditionalGeneration, config, folder)
    with pytest.raises(ModelLoadError, match="encoder-decoder"):
        load(folder, Task.GENERATE, tmp_path)


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    write(hf.BertModel, bert(), folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelLoadError, match="tokenizer"):
        load(folder, Task.EMBED, tmp_path)


def test_an_architecture_that_cannot_be_packed(folder: Path, tmp_path: Path) -> None:
    write(hf.DebertaV2Model, hf.DebertaV2Config(**SMALL, max_position_embeddings=64, pad_token_id=0), folder)
    with pytest.raises(ModelLoadError, match="DebertaV2Model cannot be packed"):
        load(folder, Task.EMBED, tmp_path)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"dtype": "int3"}, "no dtype 'int3'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
        ({"device": "meta"}, "'meta' is not supported"),
    ],
)
def test_a_place_that_is_not_there(spec: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=said):
        load("embedded:minilm", Task.EMBED, tmp_path, **spec)


def test_a_cache_too_small_for_one_context(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not hold one context"):
        load("embedded:tiny-chat", Task.GENERATE, tmp_path, cache_token_count=100, max_context_tokens=1024)


def test_a_sentence_module_that_is_not_known(folder: Path, tmp_path: Path) -> None:
    write(hf.BertModel, bert(), folder)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1", "type": "x.LSTM"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelLoadError, match="LSTM"):
        load(folder, Task.EMBED, tmp_path)


def test_progress_is_told_in_lines_that_name_the_model(folder: Path, tmp_path: Path) -> None:
    write(hf.BertModel, bert(), folder)
    lines: list[str] = []
    load_model(ModelSpec("mine", Task.EMBED, str(folder)), cache_folder=tmp_path, progress=lines.append)
    assert len(lines) >= 2
    assert all(line.startswith("mine: ") for line in lines)
    assert "BertModel" in lines[-1]


def test_limits_come_from_the_model_and_the_spec_lowers_them(folder: Path, tmp_path: Path) -> None:
    roberta = hf.RobertaConfig(**SMALL, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1)
    write(hf.RobertaModel, roberta, folder)
    loaded = load(folder, Task.EMBED, tmp_path)
    assert loaded.info.limits.max_context_tokens == 64, "two positions lie before the first"
    assert loaded.tokenizer.encode_pair("a", "b")[1] is None, "the model has no types to tell apart"
    assert load(folder, Task.EMBED, tmp_path, max_context_tokens=10).info.limits.max_context_tokens == 10


def test_bfloat16_vectors_point_the_same_way(tmp_path: Path) -> None:
    inputs = [EncodedInput(0, (101, 7592, 2088, 102)), EncodedInput(1, (101, 2023, 2003, 1037, 3231, 102))]
    exact = load("embedded:minilm", Task.EMBED, tmp_path).runner.encode(inputs)
    rough = load("embedded:minilm", Task.EMBED, tmp_path, dtype="bfloat16").runner.encode(inputs)
    cosine = (exact * rough).sum(1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(rough, axis=1))
    assert cosine.min() > 0.999


def test_a_cross_encoder_says_its_own_activation(folder: Path, tmp_path: Path) -> None:
    write(hf.BertForSequenceClassification, bert(num_labels=1), folder)
    assert load(folder, Task.SCORE, tmp_path).info.score_activation is ScoreActivation.SIGMOID
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder, Task.SCORE, tmp_path).info.score_activation is ScoreActivation.NONE


def test_pooling_dense_layers_limits_and_prompts_come_from_the_sentence_files(folder: Path, tmp_path: Path) -> None:
    write(hf.BertModel, bert(), folder)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Dense").mkdir()
    dense = {"in_features": 64, "out_features": 5, "bias": True, "activation_function": "torch.nn.modules.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    weights = {"linear.weight": torch.linspace(-1, 1, 320).view(5, 64), "linear.bias": torch.arange(5.0) / 10}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    prompts = {"prompts": {"query": "query: ", "document": "text: "}, "default_prompt_name": "document"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))

    with quiet():
        hidden = hf.BertModel.from_pretrained(folder).eval()(torch.tensor([[5, 6, 7, 8]])).last_hidden_state[0]
    loaded = load(folder, Task.EMBED, tmp_path)
    pooled = torch.cat([hidden[0], hidden.max(0).values])
    expected = torch.tanh(weights["linear.weight"] @ pooled + weights["linear.bias"])
    got = loaded.runner.encode([EncodedInput(0, (5, 6, 7, 8)), EncodedInput(1, (9, 9))])
    assert loaded.info.dimension_count == 5
    assert (torch.from_numpy(got[0]) - expected).abs().max() < 1e-5
    assert loaded.info.limits.max_context_tokens == 20
    assert loaded.tokenizer.prompt_for("query") == "query: "
    assert loaded.tokenizer.prompt_for("") == "text: "
