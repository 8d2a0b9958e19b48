"""What each model has given since the engine was made."""

from dataclasses import dataclass

from inference_svc.requests import Event, Finished, ModelTotals, Tokens


@dataclass(slots=True)
class Tally:
    """Of one model: tokens as they are told, requests and their inputs as they finish in order."""

    output_tokens: int = 0
    input_tokens: int = 0
    finished_requests: int = 0

    def note(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self.output_tokens += len(event.ids)
        elif isinstance(event, Finished):
            self.finished_requests += 1
            self.input_tokens += event.usage.input_token_count

    def told(self, model: str, waiting: tuple[int, ...]) -> ModelTotals:
        return ModelTotals(model, self.output_tokens, self.input_tokens, self.finished_requests, waiting)
