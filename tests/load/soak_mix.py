"""What a soak asks: requests whose answers are known, requests that must be refused, and ever different filling."""

import random
from collections.abc import Sequence

from inference_svc.requests import (
    ChatPrompt,
    Choice,
    EmbedWork,
    GenerateWork,
    JsonSchema,
    Message,
    OutputDetail,
    OutputFormat,
    Prompt,
    Regex,
    Request,
    Sampling,
    ScoreInput,
    ScoreWork,
    StopConditions,
    TextPrompt,
    TokenPrompt,
    Truncation,
)

from load.benchmark_models import texts

TENANTS = ("ada", "bob", "cyd", "")
SYSTEM = " ".join(texts(6, seed=77))[:700]  # a beginning that many share
_SCHEMA = '{"type":"object","properties":{"n":{"type":"integer"},"ok":{"type":"boolean"}},"required":["n","ok"]}'
_FORMATS: tuple[OutputFormat, ...] = (
    JsonSchema(_SCHEMA),
    Regex("[a-f]{3}-[0-9]{2,4}"),
    Choice(("yes", "no", "perhaps so")),
)


def known_requests(count: int, seed: int = 0) -> list[Request]:
    """The same at every call: generations of every kind, texts to embed and to score."""
    draw = random.Random(seed)
    makers = (_generation, _generation, _generation, _formed, _embedding, _scoring)
    return [makers[index % len(makers)](draw) for index in range(count)]


def filling(draw: random.Random) -> Request:
    """Nobody knows its answer: it takes room, and pushes kept beginnings out."""
    return draw.choice((_generation, _generation, _embedding))(draw)


def _prompt(draw: random.Random) -> Prompt:
    text = " ".join(texts(1, seed=draw.getrandbits(32)))[: draw.choice((20, 150, 600))]
    if draw.random() < 0.6:
        return ChatPrompt((Message("system", SYSTEM), Message("user", text)))
    return TextPrompt(text)


def _sampling(draw: random.Random) -> Sampling:
    if draw.random() < 0.4:
        return Sampling(repetition_penalty=draw.choice((1.0, 1.2)))
    return Sampling(
        temperature=draw.choice((0.6, 1.0, 1.4)),
        top_k=draw.choice((0, 40)),
        top_p=draw.choice((1.0, 0.9)),
        min_p=draw.choice((0.0, 0.05)),
        repetition_penalty=draw.choice((1.0, 1.1)),
        presence_penalty=draw.choice((0.0, 0.6)),
        frequency_penalty=draw.choice((0.0, 0.4)),
        logit_bias=draw.choice(({}, {300: 4.0, 301: -50.0})),
        seed=draw.getrandbits(62),
    )


def _generation(draw: random.Random) -> Request:
    stop = StopConditions(
        max_output_tokens=draw.randint(2, 60),
        min_output_tokens=draw.choice((0, 0, 1)),
        stop_strings=draw.choice(((), (), ("e", "th"), (" the",))),
        ignore_end_token=draw.random() < 0.3,
    )
    detail = OutputDetail(logprobs=True, top_logprob_count=2) if draw.random() < 0.15 else OutputDetail()
    return Request("chat", GenerateWork(_prompt(draw), _sampling(draw), stop, detail=detail))


def _formed(draw: random.Random) -> Request:
    work = GenerateWork(_prompt(draw), _sampling(draw), StopConditions(80), format=draw.choice(_FORMATS))
    return Request("chat", work)


def _some_texts(draw: random.Random) -> Sequence[str]:
    return texts(draw.randint(1, 6), seed=draw.getrandbits(32))


def _embedding(draw: random.Random) -> Request:
    return Request("embed", EmbedWork(tuple(_some_texts(draw)), Truncation.DROP_END))


def _scoring(draw: random.Random) -> Request:
    pairs = draw.random() < 0.5
    inputs = tuple(ScoreInput(text, "a model" if pairs else None) for text in _some_texts(draw))
    return Request("score", ScoreWork(inputs, Truncation.DROP_END))


BAD_REQUESTS: tuple[Request, ...] = (
    Request("nobody", EmbedWork(("text",))),
    Request("chat", EmbedWork(("text",))),
    Request("embed", EmbedWork(())),
    Request("embed", EmbedWork(("",))),
    Request("embed", EmbedWork(("long " * 400_000,))),
    Request("embed", EmbedWork(("long " * 2_000,))),
    Request("embed", EmbedWork(("text",), dimension_count=10_000)),
    Request("score", ScoreWork((ScoreInput(""),))),
    Request("chat", GenerateWork(TextPrompt(""))),
    Request("chat", GenerateWork(TokenPrompt((1, 10**9)))),
    Request("chat", GenerateWork(TextPrompt("a"), Sampling(temperature=float("nan")))),
    Request("chat", GenerateWork(TextPrompt("a"), Sampling(logit_bias={10**9: 1.0}))),
    Request("chat", GenerateWork(TextPrompt("a"), stop=StopConditions(max_output_tokens=10**6))),
    Request("chat", GenerateWork(TextPrompt("a"), stop=StopConditions(3, min_output_tokens=4))),
    Request("chat", GenerateWork(TextPrompt("a"), stop=StopConditions(stop_token_ids=(10**9,)))),
    Request("chat", GenerateWork(TextPrompt("a"), format=JsonSchema('{"type":'))),
    Request("chat", GenerateWork(TextPrompt("a"), format=Regex("([a-z"))),
    Request("chat", GenerateWork(TextPrompt("a"), Sampling(temperature=1.0), resumed_ids=(5,))),
)
