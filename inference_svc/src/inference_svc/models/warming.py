"""A first small pass, so that the first request does not pay for what is made on first use."""

from collections.abc import Iterator
from typing import cast

from inference_svc.engine.runner import EncoderRunner, GenerationRunner, Row
from inference_svc.model import LoadedModel
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.rehearsal import rehearsed
from inference_svc.requests import EncodedInput, Task


def warm_up(loaded: LoadedModel) -> Iterator[None]:
    """Taken on the engine's model thread, before any request, part by part: others may step in between."""
    token_ids = tuple(loaded.tokenizer.encode_text("a first small pass")) or (0,)
    token_ids = token_ids[: loaded.info.limits.max_context_tokens - 1]
    if loaded.info.task is Task.GENERATE:
        if isinstance(loaded.runner, PackedGenerationRunner):
            yield from loaded.runner.warm_up()
        _generate(cast(GenerationRunner, loaded.runner), loaded.info.name, token_ids)
    else:
        inputs = [EncodedInput(index, token_ids) for index in range(2)]
        cast(EncoderRunner, loaded.runner).encode(inputs)


def _generate(runner: GenerationRunner, model: str, token_ids: tuple[int, ...]) -> None:
    runner.open(0, rehearsed(token_ids, model=model))
    try:
        first = runner.step([Row(0, 0, token_ids, samples=True, output_index=0)])[0]
        if first is not None:
            runner.step([Row(0, len(token_ids), [first.token_id], samples=True, output_index=1)])
    finally:
        runner.close(0)
