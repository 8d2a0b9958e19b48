"""Errors as the contract tells them."""

import inspect
import re
from pathlib import Path

import pytest
from google.rpc import code_pb2, error_details_pb2
from inference_svc import errors
from inference_svc.errors import FieldViolation, InternalFault, InvalidField, QueueFull, SeamError
from inference_svc.wire.status_wire import ANSWERS, DOMAIN, status_of
from seam.errors.v1.errors_pb2 import ErrorReason

CONTRACT = Path(__file__).parents[4] / "protos/seam/errors/v1/errors.proto"
ROW = re.compile(r"^// \| ([A-Z_]+) +\| ([A-Z_]+) +\| (\w*) +\| (\w+) +\|$", re.MULTILINE)
NAMED = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SeamError)]


def details(status):
    found = {}
    for any_detail in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            detail = kind()
            if any_detail.Unpack(detail):
                found[kind.DESCRIPTOR.name] = detail
    return found


def test_every_reason_of_the_contract_has_an_answer_and_no_other():
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118 (an enum wrapper)
    assert set(ANSWERS) == reasons - {"UNSPECIFIED"}


def test_the_table_agrees_with_the_contracts_own_words():
    rows = ROW.findall(CONTRACT.read_text())
    assert {row[0] for row in rows} == set(ANSWERS)
    for reason, code, detail, _ in rows:
        assert code_pb2.Code.Name(ANSWERS[reason].code) == code, reason
        assert (ANSWERS[reason].retry_after is not None) == (detail == "RetryInfo"), reason


@pytest.mark.parametrize("kind", NAMED)
def test_every_error_of_the_package_has_a_reason_of_the_contract(kind):
    assert kind.reason in ANSWERS


def test_a_bad_field_is_named_with_reason_and_domain():
    told = status_of(InvalidField.of_field("work.sampling.top_p", "must be in (0, 1]"))
    assert told.code == code_pb2.INVALID_ARGUMENT
    assert told.message == "work.sampling.top_p: must be in (0, 1]"
    assert details(told)["ErrorInfo"] == error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain=DOMAIN)
    violation = details(told)["BadRequest"].field_violations[0]
    assert (violation.field, violation.description) == ("work.sampling.top_p", "must be in (0, 1]")
    assert "RetryInfo" not in details(told)


def test_an_errors_own_delay_goes_before_the_tables():
    assert details(status_of(QueueFull("full", retry_after=2.25)))["RetryInfo"].retry_delay.ToTimedelta().seconds == 2
    assert details(status_of(QueueFull("full")))["RetryInfo"].retry_delay.nanos == 500_000_000


def test_a_retry_is_never_advised_where_the_contract_says_no():
    assert "RetryInfo" not in details(status_of(InvalidField("no", retry_after=1.0)))


def test_a_fault_is_logged_and_told_without_its_words(caplog):
    told = status_of(ZeroDivisionError("secret words"))
    assert told.code == code_pb2.INTERNAL
    assert details(told)["ErrorInfo"].reason == InternalFault.reason
    assert "secret" not in str(told)
    assert "secret words" in caplog.text


def test_an_endless_message_is_cut():
    told = status_of(InvalidField("x" * 100_000, violations=[FieldViolation("f" * 100_000, "d" * 100_000)]))
    assert len(told.SerializeToString()) < 4_000
