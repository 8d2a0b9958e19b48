"""A first small pass, so that the first request does not pay for what is made on first use."""

from typing import cast

from inference_svc.engine.runner import EncoderRunner, GenerationRunner, Row
from inference_svc.model import LoadedModel
from inference_svc.requests import Context, EncodedInput, Generation, OutputDetail, Sampling, Task


def warm_up(loaded: LoadedModel) -> None:
    """Called on the engine's model thread, before any request."""
    token_ids = tuple(loaded.tokenizer.encode_text("a first small pass")) or (0,)
    token_ids = token_ids[: loaded.info.limits.max_context_tokens - 1]
    if loaded.info.task is Task.GENERATE:
        _generate(cast(GenerationRunner, loaded.runner), loaded.info.name, token_ids)
    else:
        inputs = [EncodedInput(index, token_ids) for index in range(2)]
        cast(EncoderRunner, loaded.runner).encode(inputs)


def _generate(runner: GenerationRunner, model: str, token_ids: tuple[int, ...]) -> None:
    generation = Generation(
        model=model,
        context=Context(),
        credits=None,
        prompt_ids=token_ids,
        resumed_ids=(),
        sampling=Sampling(seed=0),
        end_token_ids=frozenset(),
        stop_strings=(),
        min_output_tokens=0,
        max_output_tokens=2,
        format=None,
        detail=OutputDetail(),
    )
    runner.open(0, generation)
    try:
        first = runner.step([Row(0, 0, token_ids, samples=True, output_index=0)])[0]
        if first is not None:
            runner.step([Row(0, len(token_ids), [first.token_id], samples=True, output_index=1)])
    finally:
        runner.close(0)
