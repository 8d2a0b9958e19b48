"""One text in, one answer out."""

from dataclasses import dataclass

from business_svc.domain.checking import check_predict_text, served_model
from business_svc.domain.fields import by_prefix
from business_svc.domain.inference import GenerateRequest, StopConditions, Task
from business_svc.domain.prompting import PromptRules
from business_svc.ports import Inference
from business_svc.usecases.answering import DEFAULT_MODEL, Answer, Answering, whole_answer
from business_svc.usecases.calling import Call, in_callers_words

_CALLERS_FIELDS = by_prefix(
    [
        ("messages[0].content", "text"),
        ("messages[1].content", "text"),  # behind a system prompt of the server's own
        ("messages", "text"),
        ("stop.max_output_tokens", "max_output_tokens"),
    ]
)


@dataclass(frozen=True, slots=True)
class PredictRequest:
    text: str
    max_output_tokens: int | None = None


class Predicting:
    """The server's own prompt template around the text, answered greedily."""

    def __init__(self, inference: Inference, answering: Answering, prompts: PromptRules) -> None:
        self._inference = inference
        self._answering = answering
        self._prompts = prompts

    async def predict(self, request: PredictRequest, call: Call) -> Answer:
        """Raises SeamError."""
        models, replicas = self._inference.models(), self._inference.replicas()
        check_predict_text(request.text, served_model(models, replicas, DEFAULT_MODEL, Task.GENERATE))
        conversation = GenerateRequest(
            model=DEFAULT_MODEL,
            messages=self._prompts.predict_messages(request.text),
            stop=StopConditions(max_output_tokens=request.max_output_tokens),
        )
        with in_callers_words(_CALLERS_FIELDS):
            return await whole_answer(self._answering.chat(conversation, call))
