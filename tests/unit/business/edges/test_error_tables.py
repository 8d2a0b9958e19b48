"""Both edges' tables of errors against the contract's own."""

import json
import re
from pathlib import Path

import pytest
from business_svc.domain.retrying import RETRIED, retry_after
from business_svc.edge_grpc.errors_wire import CODES, status_of
from business_svc.edge_http.errors_http import TABLE, error_response
from business_svc.errors import FieldViolation, Reason, SeamError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from seam.errors.v1.errors_pb2 import ErrorReason

CONTRACT = Path(__file__).parents[4] / "protos/seam/errors/v1/errors.proto"
ROW = re.compile(r"// \| ([A-Z_]+) +\| ([A-Z_]+) +\| (\w*) +\| (\w+) +\|")
CONTRACTS_TABLE = {found[1]: found.groups()[1:] for found in map(ROW.match, CONTRACT.read_text().splitlines()) if found}


def test_the_businesss_reasons_are_the_contracts() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert {reason.value for reason in Reason} == names == set(CONTRACTS_TABLE)


def test_every_reason_has_a_code_and_a_status() -> None:
    assert set(CODES) == set(TABLE) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_code_and_retry_are_those_of_the_contracts_table(reason: Reason) -> None:
    code, details, retry = CONTRACTS_TABLE[reason.value]
    assert CODES[reason].name == code
    assert (reason in RETRIED) == (details == "RetryInfo") == (retry != "no")


def test_a_retry_without_a_time_of_its_own_gets_one_and_no_other_error_does() -> None:
    assert retry_after(SeamError(Reason.QUEUE_FULL, "x")) == 1.0
    assert retry_after(SeamError(Reason.QUEUE_FULL, "x", retry_after=0.25)) == 0.25
    assert retry_after(SeamError(Reason.QUEUE_FULL, "x", retry_after=-3)) == 0.0
    assert retry_after(SeamError(Reason.TEXT_EMPTY, "x", retry_after=9)) is None


def test_a_status_carries_reason_fields_and_retry() -> None:
    error = SeamError(
        Reason.MODEL_NOT_READY, "soon", violations=[FieldViolation("model", "is loading")], retry_after=1.5
    )
    status = status_of(error)
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    assert [detail.Unpack(message) for detail, message in zip(status.details, (info, bad, retry), strict=True)] == [
        True
    ] * 3
    assert (status.code, status.message) == (14, "soon")
    assert (info.reason, info.domain) == ("MODEL_NOT_READY", "seam")
    assert [(one.field, one.description) for one in bad.field_violations] == [("model", "is loading")]
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_the_largest_error_fits_the_trailers_of_a_call() -> None:
    violations = [FieldViolation("é" * 5000, "😀" * 5000) for _ in range(1000)]
    status = status_of(SeamError(Reason.INVALID_FIELD, "ö" * 100_000, violations=violations))
    in_trailers = len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message.encode())
    assert in_trailers < 8192


def test_text_that_utf8_cannot_carry_is_told_nevertheless() -> None:
    error = SeamError(Reason.INVALID_FIELD, "bad \ud800", violations=[FieldViolation("a\ud800", "b\ud800")])
    assert status_of(error).message == "bad ?"
    assert json.loads(bytes(error_response(error).body))["error"]["param"] == "a?"
