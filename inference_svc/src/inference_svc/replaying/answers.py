"""Whole answers out of recordings, and which of them answers a request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.errors import DuplicateRequest, FeatureNotAvailable, SeamError
from inference_svc.recording.digests import Digests, content_of, differing
from inference_svc.recording.files import Recording
from inference_svc.requests import (
    Accepted,
    EmbedWork,
    Event,
    Failed,
    Finished,
    GenerateWork,
    ModelInfo,
    Request,
    Task,
    Tokens,
    Work,
)
from inference_svc.wire.inference_wire import read_work
from inference_svc.wire.recording_wire import RecordedFailure, read_model, read_news


class Match(StrEnum):
    """How a request finds its answer."""

    CONTENT = "content"  # the same was asked
    ORDER = "order"  # the next answer of the same model and kind of work, whatever was asked


class NothingRecorded(Exception):
    """The recordings cannot be replayed as was asked; says why."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that was told `at` seconds after the request came."""

    at: float
    event: Event


@dataclass(frozen=True, slots=True)
class Answer:
    """From the first word to the end, for a request that nothing was resumed for. `content` is what was asked; empty
    where only `digest` tells. `accepted` is None where the request failed at once."""

    model: str
    task: Task
    content: str
    digest: bytes
    accepted: Accepted | None
    moments: tuple[Moment, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(i for moment in self.moments if isinstance(moment.event, Tokens) for i in moment.event.ids)

    @property
    def seed(self) -> int | None:
        return None if self.accepted is None else self.accepted.seed


@dataclass(slots=True)
class _Begun:
    """A recorded request whose end has not been read yet."""

    submit: session_pb.Submit
    digest: bytes
    began: float
    accepted: Accepted | None = None
    moments: list[Moment] = field(default_factory=list)


class Answers:
    """Raises NothingRecorded where there is nothing to answer with. Several answers to the same are given in turn."""

    def __init__(self, recordings: Sequence[Recording], match: Match, digests: Digests) -> None:
        self._match = match
        self._digests = digests
        self.models = _models_of(recordings)
        self._answers = [answer for recording in recordings for answer in _answers_of(recording)]
        if not self._answers:
            raise NothingRecorded("no request in the recordings was answered to its end")
        if match is Match.CONTENT:
            self._check_key(recordings)
        self._known: dict[object, list[Answer]] = {}
        for answer in self._answers:
            self._known.setdefault(self._key_of_answer(answer), []).append(answer)
        self._turns: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, request: Request) -> Answer:
        """Raises FeatureNotAvailable, with the reason, where nothing was recorded for it."""
        key = self._key_of(request.model, request.work)
        known: Sequence[Answer] = self._known.get(key, ())
        if not known:
            raise FeatureNotAvailable(self._why_not(request))
        if isinstance(request.work, GenerateWork):
            known = _going_on(known, request.work) if request.work.resumed_ids else _of_seed(known, request.work)
        turn = self._turns[key] = self._turns.get(key, -1) + 1
        return known[turn % len(known)]

    def _check_key(self, recordings: Sequence[Recording]) -> None:
        for recording in recordings:
            if recording.is_redacted and recording.header.key_check != self._digests.key_check:
                raise NothingRecorded(
                    "the recording is redacted, and SEAM_RECORD_KEY is not the key that it was made with: set it, or "
                    "replay in order (--replay-match order)"
                )

    def _key_of_answer(self, answer: Answer) -> object:
        if self._match is Match.ORDER:
            return (answer.model, answer.task)
        return answer.digest or self._digests.of_content(answer.content)

    def _key_of(self, model: str, work: Work) -> object:
        if self._match is Match.ORDER:
            return (model, _task_of(work))
        return self._digests.of_content(content_of(model, work))

    def _why_not(self, request: Request) -> str:
        asked = content_of(request.model, request.work)
        task = _task_of(request.work)
        near = [one for one in self._answers if one.model == request.model and one.task is task and one.content]
        unlike = sorted((differing(one.content, asked) for one in near), key=lambda names: (len(names), names))
        closest = f"; the closest recorded request differs in {', '.join(unlike[0][:8])}" if unlike else ""
        return f"nothing recorded answers this request to {request.model} ({task.value}){closest}"


def _going_on(known: Sequence[Answer], work: GenerateWork) -> Sequence[Answer]:
    given = work.resumed_ids or ()
    going_on = [answer for answer in known if answer.token_ids[: len(given)] == given]
    if not going_on:
        raise FeatureNotAvailable(f"no recorded answer to this request begins with the {len(given)} tokens given")
    return going_on


def _of_seed(known: Sequence[Answer], work: GenerateWork) -> Sequence[Answer]:
    """Those of the seed, where some are: otherwise any, since a server draws one for callers who do not care."""
    return [answer for answer in known if answer.seed == work.sampling.seed] or known


def _answers_of(recording: Recording) -> Iterator[Answer]:
    begun: dict[int, _Begun] = {}
    for frame in recording.frames:
        at = frame.offset.ToNanoseconds() / 1e9
        for number, submit in enumerate(frame.request.submits):
            digest = frame.submit_digests[number] if number < len(frame.submit_digests) else b""
            if not submit.generate.HasField("resume") and submit.request_id not in begun:
                begun[submit.request_id] = _Begun(submit, digest, at)
        for request_id, event in read_news(frame.response):
            known = begun.get(request_id)
            if known is None or _is_of_another_submit(event):
                continue
            if isinstance(event, Accepted):
                known.accepted = event
            else:
                known.moments.append(Moment(at - known.began, event))
            if isinstance(event, Finished | Failed):
                del begun[request_id]
                if (answer := _answer(known, event, redacted=recording.is_redacted)) is not None:
                    yield answer


def _is_of_another_submit(event: Event) -> bool:
    return isinstance(event, Failed) and getattr(event.error, "reason", "") == DuplicateRequest.reason


def _answer(begun: _Begun, end: Event, *, redacted: bool) -> Answer | None:
    """None where it tells nothing of what was asked, or nobody could ask it again."""
    if isinstance(end, Failed) and isinstance(end.error, RecordedFailure) and end.error.passing:
        return None
    try:
        work = read_work(begun.submit)
    except SeamError:
        return None  # today's session refuses it by itself
    if redacted and not begun.digest:
        return None
    content = "" if redacted else content_of(begun.submit.model, work)
    return Answer(begun.submit.model, _task_of(work), content, begun.digest, begun.accepted, tuple(begun.moments))


def _models_of(recordings: Sequence[Recording]) -> tuple[ModelInfo, ...]:
    models: dict[str, ModelInfo] = {}
    for recording in recordings:
        if recording.welcome is not None:
            models |= {told.name: read_model(told) for told in recording.welcome.models}
        for frame in recording.frames:
            models |= {told.name: read_model(told) for told in frame.response.models.models}
    return tuple(replace(model, notice=_notice(model)) for model in models.values())


def _notice(model: ModelInfo) -> str:
    return "; ".join(filter(None, ("answers from a recording", model.notice)))


def _task_of(work: Work) -> Task:
    if isinstance(work, GenerateWork):
        return Task.GENERATE
    return Task.EMBED if isinstance(work, EmbedWork) else Task.SCORE
