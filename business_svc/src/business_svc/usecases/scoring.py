"""Labels of texts, relevance of pairs."""

from dataclasses import replace

from business_svc.domain.checking import check_score, served_model
from business_svc.domain.inference import ScoreRequest, Scores, Task
from business_svc.observing import Operation
from business_svc.ports import Inference
from business_svc.usecases.calling import Call, Clock, context_of, in_callers_words, with_total

DEFAULT_MODEL = "score"


class Scoring:
    """Checks, asks, and says how long it took."""

    def __init__(self, inference: Inference, max_seconds: float, clock: Clock) -> None:
        self._inference = inference
        self._max_seconds = max_seconds
        self._clock = clock

    async def score(self, request: ScoreRequest, call: Call) -> Scores:
        """One score list an input, in order. Raises SeamError."""
        begun = self._clock()
        asked = replace(request, model=request.model or DEFAULT_MODEL)
        with call.work(Operation.SCORE, asked.model) as work:
            work.asked([one.text for one in asked.inputs])
            context = context_of(call, begun, self._max_seconds, work)
            models, replicas = self._inference.models(), self._inference.replicas()
            check_score(asked, served_model(models, replicas, asked.model, Task.SCORE))
            with in_callers_words():
                answer = await self._inference.score(asked, context)
            told = replace(answer, timings=with_total(answer.timings, self._clock() - begun))
            work.finished(told.usage, told.timings)
            return told
