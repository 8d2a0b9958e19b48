"""Tokens of many requests in columns: what comes out is what went in, and columns that do not fit are refused."""

import pytest
from business_svc.link.inference_wire import ColumnsBroken, columns_of
from hypothesis import given
from hypothesis import strategies as st
from seam.inference.v1.session_pb2 import TokenColumns

PIECES = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    max_size=12,
)


def columns(pieces: list[tuple[int, list[int], str]]) -> TokenColumns:
    return TokenColumns(
        request_ids=[piece[0] for piece in pieces],
        id_counts=[len(piece[1]) for piece in pieces],
        text_byte_counts=[len(piece[2].encode()) for piece in pieces],
        ids=[one for piece in pieces for one in piece[1]],
        text="".join(piece[2] for piece in pieces),
    )


@given(PIECES)
def test_what_comes_out_is_what_went_in(pieces: list[tuple[int, list[int], str]]) -> None:
    found = [(request_id, list(news.ids), news.text) for request_id, news in columns_of(columns(pieces))]
    assert found == pieces


@pytest.mark.parametrize(
    "broken",
    [
        TokenColumns(request_ids=[1, 2], id_counts=[1], text_byte_counts=[0], ids=[5]),
        TokenColumns(request_ids=[1], id_counts=[1], text_byte_counts=[], ids=[5]),
        TokenColumns(request_ids=[1], id_counts=[2], text_byte_counts=[1], ids=[5], text="x"),
        TokenColumns(request_ids=[1], id_counts=[1], text_byte_counts=[1], ids=[5, 6], text="x"),
        TokenColumns(request_ids=[1], id_counts=[1], text_byte_counts=[2], ids=[5], text="x"),
        TokenColumns(request_ids=[1, 2], id_counts=[1, 1], text_byte_counts=[1, 1], ids=[5, 6], text="\u00e9"),
    ],
    ids=["no count", "no size", "ids short", "ids left", "text short", "within a character"],
)
def test_columns_that_do_not_fit_are_refused(broken: TokenColumns) -> None:
    with pytest.raises(ColumnsBroken):
        columns_of(broken)
