"""Requests that nobody made, for what is computed before the first one comes."""

from collections.abc import Sequence

from inference_svc.requests import Context, Generation, OutputDetail, Sampling


def rehearsed(prompt_ids: Sequence[int], *, model: str = "", sampling: Sampling | None = None) -> Generation:
    """Two tokens behind a prompt, greedy where nothing else is said."""
    return Generation(
        model=model,
        context=Context(),
        credits=None,
        prompt_ids=tuple(prompt_ids),
        resumed_ids=(),
        sampling=sampling or Sampling(seed=0),
        end_token_ids=frozenset(),
        stop_strings=(),
        min_output_tokens=0,
        max_output_tokens=2,
        format=None,
        detail=OutputDetail(),
    )
