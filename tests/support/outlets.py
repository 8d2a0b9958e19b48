"""An engine outlet that remembers what it was told and can be waited on; and short ways to make work for it."""

import threading
from collections.abc import Sequence

from inference_svc.requests import (
    Context,
    EmbedWork,
    EncodedInput,
    Encoding,
    Event,
    Failed,
    Finished,
    Generation,
    OutputDetail,
    Sampling,
    Tokens,
)

from support.echo import PATIENCE


class RecordingOutlet:
    """`deliveries` has one entry a call."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.deliveries: list[list[tuple[int, Event]]] = []
        self.events: dict[int, list[Event]] = {}

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        with self._changed:
            self.deliveries.append(list(events))
            for request_id, event in events:
                self.events.setdefault(request_id, []).append(event)
            self._changed.notify_all()

    def ids(self, request_id: int) -> list[int]:
        return [each for event in self.events.get(request_id, []) if isinstance(event, Tokens) for each in event.ids]

    def text(self, request_id: int) -> str:
        return "".join(event.text for event in self.events.get(request_id, []) if isinstance(event, Tokens))

    def end(self, request_id: int) -> Finished | Failed | None:
        ends = [event for event in self.events.get(request_id, []) if isinstance(event, Finished | Failed)]
        assert len(ends) <= 1, ends
        return ends[0] if ends else None

    def wait_for_end(self, *request_ids: int) -> None:
        self._wait(lambda: all(self.end(each) is not None for each in request_ids), f"the end of {request_ids}")

    def wait_for_tokens(self, request_id: int, count: int) -> None:
        self._wait(lambda: len(self.ids(request_id)) >= count, f"{count} tokens of {request_id}")

    def finished(self, request_id: int) -> Finished:
        self.wait_for_end(request_id)
        end = self.end(request_id)
        assert isinstance(end, Finished), end
        return end

    def error(self, request_id: int) -> Exception:
        self.wait_for_end(request_id)
        end = self.end(request_id)
        assert isinstance(end, Failed), end
        return end.error

    def _wait(self, condition, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE):
                raise TimeoutError(f"{what} did not come; there is {self.events}")


def generation(
    prompt: str | Sequence[int] = "hello",
    *,
    model: str = "chat",
    count: int = 8,
    resumed: Sequence[int] = (),
    credits: int | None = None,
    context: Context = Context(),  # noqa: B008  # frozen
    seed: int = 0,
    ends: Sequence[int] = (),
    stops: Sequence[str] = (),
    least: int = 0,
    detail: OutputDetail = OutputDetail(),  # noqa: B008  # frozen
) -> Generation:
    ids = tuple(prompt.encode()) if isinstance(prompt, str) else tuple(prompt)
    return Generation(
        model=model,
        context=context,
        credits=credits,
        prompt_ids=ids,
        resumed_ids=tuple(resumed),
        sampling=Sampling(seed=seed),
        end_token_ids=frozenset(ends),
        stop_strings=tuple(stops),
        min_output_tokens=least,
        max_output_tokens=count,
        format=None,
        detail=detail,
    )


def encoding(*texts: str, model: str = "embed", context: Context = Context()) -> Encoding:  # noqa: B008  # frozen
    inputs = tuple(EncodedInput(index, tuple(text.encode())) for index, text in enumerate(texts))
    return Encoding(model=model, context=context, inputs=inputs, work=EmbedWork(texts=texts, normalize=False))
