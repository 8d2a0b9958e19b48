"""Inputs packed into one row give what transformers gives for each alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from inference_svc.errors import ModelLoadError
from inference_svc.models import prepacked
from inference_svc.models.checkpoint import quiet
from inference_svc.models.encoder_runner import PackedEncoderRunner, checked_encoder_runner, takes_type_ids
from inference_svc.models.onednn_linear import OneDnnLinear
from inference_svc.models.packed_bidirectional import PackedLayout
from inference_svc.models.packed_linear import PackedLinear
from inference_svc.models.panel_linear import PanelLinear
from inference_svc.models.pooling import Pooling, mean_in_one, pool
from inference_svc.models.readout import logits_readout, vector_readout
from inference_svc.models.sentence_transformers_files import SentenceFiles
from inference_svc.models.varlen_inputs import VarlenInputs, difference_from_groups
from inference_svc.requests import EncodedInput
from support.plain_varlen import plain_varlen_inputs

torch.set_num_threads(1)

LENGTHS = (5, 33, 1, 12, 5, 64, 2, 33, 7)
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
WIDE = {"initializer_range": 0.3}  # so that every part of the model shows in the result
ROBERTA = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "max_position_embeddings": 130,
    "type_vocab_size": 1,
}
MODERN = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
    "local_attention": 16,
}

FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (lambda: hf.BertConfig(**SIZES, **WIDE, max_position_embeddings=128), "Bert"),
    "roberta": (lambda: hf.RobertaConfig(**SIZES, **WIDE, **ROBERTA), "Roberta"),
    "xlm-roberta": (lambda: hf.XLMRobertaConfig(**SIZES, **WIDE, **ROBERTA), "XLMRoberta"),
    "mpnet": (lambda: hf.MPNetConfig(**SIZES, **WIDE, max_position_embeddings=130), "MPNet"),
    "distilbert": (
        lambda: hf.DistilBertConfig(
            vocab_size=300, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=128, **WIDE
        ),
        "DistilBert",
    ),
    "modernbert": (lambda: hf.ModernBertConfig(**SIZES, **WIDE, **MODERN), "ModernBert"),
    "modernbert-mean": (
        lambda: hf.ModernBertConfig(**SIZES, **WIDE, **MODERN, classifier_pooling="mean"),
        "ModernBert",
    ),
    "electra": (lambda: hf.ElectraConfig(**SIZES, **WIDE, embedding_size=32), "Electra"),
    "qwen3": (
        lambda: hf.Qwen3Config(**SIZES, **WIDE, num_key_value_heads=2, head_dim=8, pad_token_id=0, use_cache=False),
        "Qwen3",
    ),
}


def made(family: str, head: str, **changes: Any) -> Any:
    """A tiny model of the family, seeded: head "Model" or "ForSequenceClassification"."""
    config, prefix = FAMILIES[family][0](), FAMILIES[family][1]
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(7)
        return getattr(hf, prefix + head)(config).eval()


def inputs_for(model: Any) -> list[EncodedInput]:
    draw = np.random.default_rng(3)
    typed = takes_type_ids(model)
    return [
        EncodedInput(
            index,
            tuple(int(token) for token in draw.integers(3, 300, length)),
            tuple(int(place > length // 2) for place in range(length)) if typed else None,
        )
        for index, length in enumerate(LENGTHS)
    ]


def plain(model: Any, one: EncodedInput) -> Any:
    """transformers' own answer for one input."""
    tensors = {"input_ids": torch.tensor([one.token_ids])}
    if one.type_ids is not None:
        tensors["token_type_ids"] = torch.tensor([one.type_ids])
    with torch.inference_mode():
        return model(**tensors)


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())
    cosine = (got * expected).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1))
    assert cosine.min() > 0.99999


REFERENCE_POOLING: dict[Pooling, Callable[[torch.Tensor], torch.Tensor]] = {
    Pooling.MEAN: lambda hidden: hidden.mean(0),
    Pooling.FIRST: lambda hidden: hidden[0],
    Pooling.LAST: lambda hidden: hidden[-1],
    Pooling.MAX: lambda hidden: hidden.max(0).values,
    Pooling.MEAN_SQRT_LENGTH: lambda hidden: hidden.sum(0) / len(hidden) ** 0.5,
    Pooling.WEIGHTED_MEAN: lambda hidden: (
        sum((place + 1) * row for place, row in enumerate(hidden)) / sum(range(1, len(hidden) + 1))
    ),
}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "modernbert-mean"])
def test_vectors_of_a_mixed_row_equal_those_of_each_input_alone(family: str) -> None:
    model = made(family, "Model")
    inputs = inputs_for(model)
    hidden = [plain(model, one).last_hidden_state[0] for one in inputs]
    pooling = Pooling.LAST if family == "qwen3" else Pooling.MEAN
    expected = np.stack([REFERENCE_POOLING[pooling](rows).numpy() for rows in hidden])
    runner, width = checked_encoder_runner(model, vector_readout(model, SentenceFiles()), max_tokens=128)
    assert width == 32
    assert_same(runner.encode(inputs), expected)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_attention_in_one_call_gives_what_it_gives_by_group(family: str) -> None:
    """As on a GPU, in half precision; the call by its documented meaning."""
    model, calls = made(family, "ForSequenceClassification", num_labels=3), []

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(named["window_size"])
        return plain_varlen_inputs(*arguments, **named)

    inputs = inputs_for(model)
    expected = np.concatenate([plain(model, one).logits.numpy() for one in inputs])
    whole_row = VarlenInputs(counted, torch.float32)
    runner = PackedEncoderRunner(model, logits_readout(model), prepack=False, whole_row=whole_row)
    assert_same(runner.encode(inputs), expected)
    assert len(calls) == (0 if family == "mpnet" else 2), "one a layer, but where scores have a bias"


def test_a_call_for_all_inputs_that_is_wrong_here_is_not_used() -> None:
    def sees_neighbours(*arguments: Any, **named: Any) -> torch.Tensor:
        return plain_varlen_inputs(*arguments, **(named | {"window_size": (-1, -1)}))

    def refuses(*arguments: Any, **named: Any) -> torch.Tensor:
        raise RuntimeError("no kernel for this device")

    cpu = torch.device("cpu")
    assert difference_from_groups(VarlenInputs(plain_varlen_inputs, torch.float32), torch.float32, cpu) < 1e-5
    for wrong in (sees_neighbours, refuses):
        assert difference_from_groups(VarlenInputs(wrong, torch.float32), torch.float32, cpu) > 0.1
    assert VarlenInputs.where_right(torch.bfloat16, cpu) is None
    assert VarlenInputs.where_right(torch.float32, torch.device("cuda")) is None


def test_a_mean_in_one_call_is_the_mean_of_each_input_and_none_spoils_another() -> None:
    layout = PackedLayout.of(LENGTHS, torch.device("cpu"))
    hidden = torch.randn(sum(LENGTHS), 32, generator=torch.Generator().manual_seed(1))
    by_group = pool(hidden, layout, [Pooling.MEAN])
    assert torch.allclose(mean_in_one(hidden, layout), by_group, atol=1e-6)
    hidden[int(layout.starts[3])] = torch.nan
    spoilt = mean_in_one(hidden, layout)
    assert [bool(row.isfinite().all()) for row in spoilt] == [index != 3 for index in range(len(LENGTHS))]


@pytest.mark.parametrize("pooling", list(Pooling), ids=lambda kind: kind.value)
def test_every_pooling_sees_one_input_only(pooling: Pooling) -> None:
    model = made("bert", "Model")
    inputs = inputs_for(model)
    hidden = [plain(model, one).last_hidden_state[0] for one in inputs]
    expected = np.stack([REFERENCE_POOLING[pooling](rows).numpy() for rows in hidden])
    runner = PackedEncoderRunner(model, vector_readout(model, SentenceFiles(pooling=(pooling,))))
    assert_same(runner.encode(inputs), expected)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_of_a_mixed_row_equal_those_of_each_input_alone(family: str) -> None:
    model = made(family, "ForSequenceClassification", num_labels=3)
    inputs = inputs_for(model)
    expected = np.concatenate([plain(model, one).logits.numpy() for one in inputs])
    runner, width = checked_encoder_runner(model, logits_readout(model), max_tokens=128)
    assert width == 3
    assert_same(runner.encode(inputs), expected)


def test_an_input_keeps_its_vector_to_the_last_bits_whatever_lies_beside_it() -> None:
    model = made("bert", "Model")
    inputs = inputs_for(model)
    runner = PackedEncoderRunner(model, vector_readout(model, SentenceFiles()))
    together = runner.encode(inputs)
    backwards = runner.encode(inputs[::-1])[::-1]
    alone = np.concatenate([runner.encode([one]) for one in inputs])
    assert np.abs(together - backwards).max() < 1e-6
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "lengths_seen"), [(OneDnnLinear, set(range(8, 65, 8))), (PanelLinear, set(range(3, 62)))]
)
def test_rows_are_laid_in_few_lengths_where_a_kernel_is_made_for_each(
    kind: type[PackedLinear], lengths_seen: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepacked, "kinds_here", lambda: (kind,))
    model = made("bert", "Model")
    runner = PackedEncoderRunner(model, vector_readout(model, SentenceFiles()))
    lengths = set()

    def note(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        assert {given[name].shape for name in ("input_ids", "position_ids", "token_type_ids")} == {
            given["input_ids"].shape
        }
        lengths.add(given["input_ids"].shape[1])

    model.register_forward_pre_hook(note, with_kwargs=True)
    for count in range(1, 60):
        runner.encode([EncodedInput(0, (5,) * count), EncodedInput(1, (6, 7))])
    assert lengths == lengths_seen


def test_plain_linear_layers_give_the_same_as_prepacked_ones() -> None:
    model, twin = made("roberta", "Model"), made("roberta", "Model")
    inputs = inputs_for(model)
    packed = PackedEncoderRunner(model, vector_readout(model, SentenceFiles()))
    unpacked = PackedEncoderRunner(twin, vector_readout(twin, SentenceFiles()), prepack=False)
    assert np.abs(packed.encode(inputs) - unpacked.encode(inputs)).max() < 1e-5


def test_two_models_in_one_process_do_not_disturb_each_other() -> None:
    first, second = made("bert", "Model"), made("modernbert", "Model")
    runners = [PackedEncoderRunner(model, vector_readout(model, SentenceFiles())) for model in (first, second)]
    inputs = inputs_for(second)
    before = [runner.encode(inputs) for runner in runners]
    after = [runner.encode(inputs) for runner in reversed(runners)][::-1]
    for once, again in zip(before, after, strict=True):
        assert np.array_equal(once, again)


def test_a_model_that_computes_attention_itself_is_refused_at_load() -> None:
    config = hf.DebertaV2Config(**SIZES, **WIDE, pad_token_id=0, max_position_embeddings=128)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(7)
        model = hf.DebertaV2Model(config).eval()
        with pytest.raises(ModelLoadError, match="cannot be packed"):
            checked_encoder_runner(model, vector_readout(model, SentenceFiles()), max_tokens=128)


def test_a_model_whose_attention_needs_more_than_is_computed_is_refused_at_load() -> None:
    config = hf.Gemma2Config(
        **SIZES, **WIDE, num_key_value_heads=2, head_dim=8, attn_logit_softcapping=5.0, pad_token_id=0
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(7)
        model = hf.Gemma2Model(config).eval()
        with pytest.raises(ModelLoadError, match="softcap"):
            checked_encoder_runner(model, vector_readout(model, SentenceFiles()), max_tokens=128)
