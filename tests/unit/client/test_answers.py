"""What the contract's answers become."""

from google.protobuf.duration_pb2 import Duration
from seam.business.v1 import chat_service_pb2, conversation_pb2, embedding_service_pb2, operations_service_pb2
from seam_client import Citation, Embedding, FinishReason, PositionLogprobs, ReplicaState, Started, Task, TokenLogprob
from seam_client.wire import answers


def test_a_seed_of_zero_is_told_from_no_seed() -> None:
    without = chat_service_pb2.ChatResponse(started=chat_service_pb2.Started(request_id="r", model="m"))
    seeded = chat_service_pb2.ChatResponse(started=chat_service_pb2.Started(seed=0))
    assert answers.chat_event(without) == Started("r", "m", 0, None, "")
    assert answers.chat_event(seeded) == Started("", "", 0, 0, "")


def test_a_piece_of_text_reads_as_its_text_and_keeps_its_details() -> None:
    chosen = conversation_pb2.TokenLogprob(text="a", logprob=-0.5, token_id=3)
    other = conversation_pb2.TokenLogprob(text="b", logprob=-1.5, token_id=4)
    told = chat_service_pb2.Text(
        text="a", token_ids=[3], logprobs=[conversation_pb2.PositionLogprobs(chosen=chosen, top=[chosen, other])]
    )
    event = answers.chat_event(chat_service_pb2.ChatResponse(text=told))
    assert str(event) == "a"
    first, second = TokenLogprob("a", -0.5, 3), TokenLogprob("b", -1.5, 4)
    assert event.logprobs == (PositionLogprobs(first, (first, second)),)  # type: ignore[union-attr]
    assert event.token_ids == (3,)  # type: ignore[union-attr]


def test_a_citation_keeps_its_place() -> None:
    told = chat_service_pb2.ChatResponse(citation=chat_service_pb2.Citation(start=1, end=4, source_id="s", quote="q"))
    assert answers.chat_event(told) == Citation(1, 4, "s", "q")


def test_an_event_of_a_newer_server_is_passed_over() -> None:
    newer = chat_service_pb2.ChatResponse.FromString(b"\xfa\x07\x00")
    assert answers.chat_event(newer) is None


def test_values_newer_than_the_client_are_unknown_and_not_a_failure() -> None:
    finished = chat_service_pb2.ChatResponse(finished=chat_service_pb2.Finished())
    finished.finished.reason = 99  # type: ignore[assignment]
    assert answers.chat_event(finished).reason is FinishReason.UNKNOWN  # type: ignore[union-attr]
    listed = operations_service_pb2.ListModelsResponse(models=[operations_service_pb2.Model(name="m")])
    assert answers.models(listed)[0].task is Task.UNKNOWN


def test_every_value_of_the_contracts_enums_has_its_own_here() -> None:
    for table, enum, ours in (
        (answers.FINISH_REASONS, conversation_pb2.FinishReason, FinishReason),
        (answers.TASKS, operations_service_pb2.Task, Task),
        (answers.REPLICA_STATES, operations_service_pb2.ReplicaState, ReplicaState),
    ):
        assert set(table) == set(enum.values()) - {0}
        assert set(table.values()) == set(ours) - {ours.UNKNOWN}


def test_durations_are_seconds() -> None:
    timings = conversation_pb2.Timings(
        queue=Duration(nanos=1_000_000), prefill=Duration(seconds=2), decode=Duration(seconds=1, nanos=500_000_000)
    )
    told = answers.chat_event(chat_service_pb2.ChatResponse(finished=chat_service_pb2.Finished(timings=timings)))
    kept = told.timings  # type: ignore[union-attr]
    assert (kept.queue_seconds, kept.prefill_seconds, kept.decode_seconds, kept.total_seconds) == (0.001, 2.0, 1.5, 0.0)


def test_a_vector_is_a_tuple_of_the_floats_that_were_sent() -> None:
    told = embedding_service_pb2.EmbedResponse(
        embeddings=[embedding_service_pb2.Embedding(values=[0.5, -0.25], input_token_count=3, truncated=True)]
    )
    assert answers.embeddings(told).embeddings == (Embedding((0.5, -0.25), 3, True),)
