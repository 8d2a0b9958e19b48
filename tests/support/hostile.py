"""Frames that no honest client sends, each case made from one number: run it again with the same one."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from seam.inference.v1 import model_service_pb2, session_pb2, work_pb2
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse

HELLO = SessionRequest(hello=session_pb2.Hello(protocol_revision=1, client_id="hostile")).SerializeToString()
_IDS = (0, 1, 1, 2, 3, 3, 7, 2**31, 2**32, 2**63, 2**64 - 1)
_COUNTS = (0, 1, 1, 2, 5, 40, 2**16, 2**31, 2**32 - 1)
_SECONDS = (0, 1, 1, 60, -1, 2**31, 315_576_000_000, 315_576_000_001, 2**63 - 1, -(2**63))
_FLOATS = (0.0, 0.5, 1.0, 1.5, -1.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"))
_TEXTS = ("", "a", "hello", "é\U0001f9f5", "x" * 700, "\x01", "\x02", "\x03", "\x00", "�" * 9)
_PATTERNS = ("[ab]+", "(", "a{99999}", "(a|b)*c", "", "\\u0000", "(?=a)b")
_SCHEMAS = ("{}", "{", '{"type": "object"}', '{"$ref": "#"}', '{"enum": []}', "null", '{"type": 7}')
_MODELS = ("chat", "chat", "chat", "embed", "score", "", "nobody", "chat\x00", "c" * 5000)


@dataclass(frozen=True)
class Case:
    """`frames` as bytes on the wire, `turns` of the event loop that it stays, `reads` frames of ours it takes."""

    seed: int
    frames: tuple[bytes, ...]
    turns: int
    reads: int
    half_closes: bool


def case_of(seed: int) -> Case:
    chance = random.Random(seed)
    make = chance.choice((_structured, _structured, _mutated, _mutated, _random_bytes))
    frames = tuple(make(chance))
    return Case(seed, frames, chance.randint(0, 25), chance.choice((0, 0, 1, 3, 1000)), chance.random() < 0.3)


def _structured(chance: random.Random) -> list[bytes]:
    """Whole messages without sense. Most begin with an honest hello: else nothing behind it is reached."""
    frames = [HELLO] if chance.random() < 0.9 else []
    frames += [_frame(chance).SerializeToString() for _ in range(chance.randint(0, 6))]
    return frames


def _mutated(chance: random.Random) -> list[bytes]:
    """An honest conversation, then: bytes changed, cut, doubled, joined; frames lost, repeated, out of order."""
    frames = [HELLO, *(frame.SerializeToString() for frame in honest_conversation(chance))]
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(frames)) if chance.random() < 0.2 else len(frames) - 1
        frames[at] = _change_bytes(chance, frames[at])
        match chance.randrange(5):
            case 0:
                frames.append(chance.choice(frames))
            case 1 if len(frames) > 1:
                del frames[chance.randrange(1, len(frames))]
            case 2:
                chance.shuffle(frames)
            case 3:
                frames.append(chance.choice(frames) + chance.choice(frames))
    return frames


def _random_bytes(chance: random.Random) -> list[bytes]:
    frames = [HELLO] if chance.random() < 0.8 else []
    return frames + [chance.randbytes(chance.choice((0, 1, 2, 5, 30, 400))) for _ in range(chance.randint(1, 4))]


def _change_bytes(chance: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw or b"\x00")
    for _ in range(chance.choice((0, 1, 1, 2, 8))):
        match chance.randrange(4):
            case 0:
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            case 1:
                changed[chance.randrange(len(changed))] = chance.choice((0, 1, 127, 128, 255))
            case 2:
                del changed[chance.randrange(len(changed)) :]
                changed += b"\x00" * (not changed)
            case 3:
                at = chance.randrange(len(changed))
                changed[at:at] = chance.randbytes(chance.randint(1, 6))
    return bytes(changed)


def honest_conversation(chance: random.Random) -> list[SessionRequest]:
    first = SessionRequest()
    for request_id in (1, 2):
        submit = first.submits.add(request_id=request_id, model="chat", initial_credits=chance.randint(0, 8))
        submit.generate.prompt.text = "hello"
        submit.generate.stop.max_output_tokens = 12
        submit.generate.stop.ignore_end_token = True
    third = first.submits.add(request_id=3, model="embed")
    third.embed.texts.extend(("a", "b"))
    return [
        first,
        SessionRequest(grants=[session_pb2.Grant(request_id=1, credits=4)]),
        SessionRequest(cancels=[session_pb2.Cancel(request_id=2)]),
        SessionRequest(grants=[session_pb2.Grant(request_id=1, credits=8)]),
    ]


def _frame(chance: random.Random) -> SessionRequest:
    frame = SessionRequest()
    if chance.random() < 0.03:
        frame.hello.protocol_revision = chance.choice(_COUNTS)
        frame.hello.client_id = chance.choice(_TEXTS)
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        frame.submits.append(_submit(chance))
    for _ in range(chance.choice((0, 0, 1, 3))):
        frame.cancels.add(request_id=chance.choice(_IDS))
    for _ in range(chance.choice((0, 0, 1, 3))):
        frame.grants.add(request_id=chance.choice(_IDS), credits=chance.choice(_COUNTS))
    return frame


def _submit(chance: random.Random) -> session_pb2.Submit:
    submit = session_pb2.Submit(request_id=chance.choice(_IDS), model=chance.choice(_MODELS))
    if chance.random() < 0.7:
        submit.initial_credits = chance.choice(_COUNTS)
    if chance.random() < 0.5:
        _fill_context(chance, submit.context)
    match chance.randrange(8):
        case 0:
            submit.embed.texts.extend(chance.choices(_TEXTS, k=chance.choice((0, 1, 3, 200))))
            submit.embed.truncation = chance.randrange(-1, 4)  # type: ignore[assignment]  # of no value too
            submit.embed.dimension_count = chance.choice(_COUNTS)
        case 1:
            for text in chance.choices(_TEXTS, k=chance.choice((0, 1, 3))):
                submit.score.inputs.add(text=text, text_pair=chance.choice(_TEXTS))
            submit.score.activation = chance.randrange(6)  # type: ignore[assignment]
        case 2:
            pass
        case _:
            _fill_generation(chance, submit.generate)
    return submit


def _fill_context(chance: random.Random, context: session_pb2.RequestContext) -> None:
    context.priority = chance.randrange(-1, 6)  # type: ignore[assignment]
    context.tenant_key = chance.choice(_TEXTS)
    context.trace.traceparent = chance.choice(_TEXTS)
    for timeout in (context.timeout, context.first_token_timeout):
        if chance.random() < 0.4:
            timeout.seconds = chance.choice(_SECONDS)
            timeout.nanos = chance.choice((0, 0, 1, -1, 999_999_999, 2**31 - 1))


def _fill_generation(chance: random.Random, work: work_pb2.GenerateWork) -> None:
    match chance.randrange(4):
        case 0:
            work.prompt.text = chance.choice(_TEXTS)
        case 1:
            work.prompt.tokens.ids.extend(chance.choices((0, 1, 97, 255, 300, 2**32 - 1), k=chance.choice((0, 3, 600))))
        case 2:
            for _ in range(chance.choice((0, 1, 3))):
                work.prompt.chat.messages.add(
                    role=chance.choice(("user", "", "refused")), content=chance.choice(_TEXTS)
                )
    some: tuple[Callable[[], object], ...] = (
        lambda: setattr(work.sampling, "temperature", chance.choice(_FLOATS)),
        lambda: setattr(work.sampling, chance.choice(("top_p", "min_p", "presence_penalty")), chance.choice(_FLOATS)),
        lambda: setattr(work.sampling, "repetition_penalty", chance.choice(_FLOATS)),
        lambda: setattr(work.sampling, "top_k", chance.choice(_COUNTS)),
        lambda: setattr(work.sampling, "seed", chance.choice(_IDS)),
        lambda: work.sampling.logit_bias.update({chance.choice((1, 300, 2**32 - 1)): 1e30}),
        lambda: setattr(work.stop, "max_output_tokens", chance.choice(_COUNTS)),
        lambda: setattr(work.stop, "min_output_tokens", chance.choice(_COUNTS)),
        lambda: work.stop.stop_strings.extend(chance.choices(_TEXTS, k=chance.choice((1, 17)))),
        lambda: work.stop.stop_token_ids.append(chance.choice(_COUNTS)),
        lambda: setattr(work.format, "regex", chance.choice(_PATTERNS)),
        lambda: setattr(work.format, "json_schema", chance.choice(_SCHEMAS)),
        lambda: work.format.choice.texts.extend(chance.choices(_TEXTS, k=2)),
        lambda: setattr(work.detail, "top_logprob_count", chance.choice(_COUNTS)),
        lambda: setattr(work.detail, "prompt_logprobs", True),
        lambda: work.resume.output_token_ids.extend(chance.choices((97, 98, 2**32 - 1), k=chance.choice((1, 700)))),
    )
    for fill in some:
        if chance.random() < 0.12:
            fill()


_Message = TypeVar("_Message", bound=Message)


def parsed(raw: bytes, kind: type[_Message]) -> _Message | None:
    """As gRPC reads a message; None for what is none."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        return None


# --- replicas ---------------------------------------------------------------------------------------------------------


def welcome(replica_id: str = "hostile") -> SessionResponse:
    frame = SessionResponse()
    frame.welcome.protocol_revision = 1
    frame.welcome.replica_id = replica_id
    for name, task in (("chat", model_service_pb2.TASK_GENERATE), ("embed", model_service_pb2.TASK_EMBED)):
        frame.welcome.models.add(name=name, task=task, state=model_service_pb2.MODEL_STATE_READY)
    frame.load.state = session_pb2.REPLICA_STATE_READY
    return frame


def responses_of(seed: int) -> list[bytes]:
    """What a replica may say, after its welcome, to a business that asked for generations 1 and 2 and for two vectors
    as request 3."""
    chance = random.Random(seed)
    match chance.randrange(3):
        case 0:
            return [_response(chance).SerializeToString() for _ in range(chance.randint(1, 8))]
        case 1:
            frames = [frame.SerializeToString() for frame in honest_answers()]
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(frames))
                match chance.randrange(4):
                    case 0:
                        frames.insert(at, chance.choice(frames))
                    case 1 if len(frames) > 1:
                        del frames[at]
                    case 2:
                        chance.shuffle(frames)
                    case _:
                        frames[at] = _change_bytes(chance, frames[at])
            return frames
        case _:
            return [chance.randbytes(chance.choice((1, 3, 20, 200))) for _ in range(chance.randint(1, 4))]


def honest_answers() -> list[SessionResponse]:
    first = SessionResponse()
    for request_id in (1, 2, 3):
        first.events.add(request_id=request_id).accepted.input_token_count = 3
    second = SessionResponse()
    second.tokens.request_ids.extend((1, 2))
    second.tokens.id_counts.extend((2, 1))
    second.tokens.ids.extend((97, 98, 99))
    second.tokens.text_byte_counts.extend((2, 1))
    second.tokens.text = "abc"
    third = SessionResponse()
    for index in (1, 0):
        third.events.add(request_id=3).vectors.embeddings.add(index=index, values=(0.5, 0.5))
    last = SessionResponse()
    for request_id in (1, 2, 3):
        last.events.add(request_id=request_id).finished.reason = work_pb2.FINISH_REASON_LENGTH
    return [first, second, third, last]


def _response(chance: random.Random) -> SessionResponse:
    frame = SessionResponse()
    if chance.random() < 0.05:
        frame.CopyFrom(welcome())
    if chance.random() < 0.3:
        load = frame.load.models.add(model=chance.choice(_MODELS), running_sequence_count=chance.choice(_COUNTS))
        load.predicted_wait.seconds = chance.choice(_SECONDS)
        load.step_duration.nanos = chance.choice((0, -1, 2**31 - 1))
    if chance.random() < 0.05:
        frame.models.models.add(name=chance.choice(_MODELS), task=chance.randrange(-1, 6))  # type: ignore[arg-type]
    if chance.random() < 0.3:
        columns = frame.tokens
        columns.request_ids.extend(chance.choices((1, 2, 3, 9, 2**64 - 1), k=chance.randint(0, 3)))
        columns.id_counts.extend(chance.choices(_COUNTS, k=chance.choice((len(columns.request_ids), 2))))
        columns.text_byte_counts.extend(chance.choices((0, 1, 2, 2**32 - 1), k=len(columns.request_ids)))
        columns.ids.extend(chance.choices((1, 2**32 - 1), k=chance.choice((0, 1, 3, 400))))
        columns.text = chance.choice(_TEXTS)
    for _ in range(chance.choice((0, 1, 1, 3))):
        _fill_event(chance, frame.events.add(request_id=chance.choice((1, 1, 2, 2, 3, 3, 0, 9, 2**64 - 1))))
    return frame


def _fill_event(chance: random.Random, event: session_pb2.Event) -> None:
    match chance.randrange(8):
        case 0 | 1 | 2:
            event.accepted.input_token_count = chance.choice(_COUNTS)
        case 3:
            event.tokens.ids.extend(chance.choices((1, 2**32 - 1), k=chance.choice((0, 1, 1, 3, 400))))
            event.tokens.text = chance.choice(_TEXTS)
        case 4:
            event.vectors.embeddings.add(index=chance.choice(_COUNTS), values=chance.choices(_FLOATS[:4], k=2))
        case 5:
            event.finished.reason = chance.randrange(-1, 6)  # type: ignore[assignment]
            event.finished.usage.output_token_count = chance.choice(_COUNTS)
            event.finished.timings.queue.seconds = chance.choice(_SECONDS)
        case 6:
            event.failed.code = chance.choice((0, 3, 8, 14, -1, 99))
            event.failed.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=chance.randbytes(9))
        case _:
            pass
