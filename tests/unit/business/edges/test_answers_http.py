"""Logprobs as OpenAI's clients read them."""

from business_svc.domain.inference import TokenLogprob
from business_svc.edge_http.answers_http import _token


def test_a_token_that_is_part_of_a_character_has_no_bytes_that_the_contract_knows() -> None:
    assert _token(TokenLogprob(5, -0.5, "né")) == {"token": "né", "logprob": -0.5, "bytes": [110, 195, 169]}
    assert _token(TokenLogprob(6, -0.5, "\ufffd"))["bytes"] is None
