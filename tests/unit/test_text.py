"""Text of an answer, token by token: whole code points, no part of a stop string, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.text import AnswerText


def decode_bytes(ids):
    return bytes(ids).decode("utf-8", "replace")


def deltas(data, stops=(), unsearched=0):
    text = AnswerText(decode_bytes, stops, unsearched)
    parts = []
    for token in data:
        parts.append(text.push(token))
        if text.stopped:
            return parts
    return [*parts, text.finish()]


@given(st.text())
def test_deltas_add_up_to_the_text(text):
    assert "".join(deltas(text.encode())) == text


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])))
def test_no_delta_holds_half_a_code_point(text):
    assert all("\ufffd" not in delta for delta in deltas(text.encode()))


@given(st.text("ab\u00e9", max_size=30), st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text, stops):
    shown = "".join(deltas(text.encode(), stops))
    found = [text.find(stop) for stop in stops if stop in text]
    # Of stop strings that overlap, the one completed first counts; it may begin later than another.
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert shown == text if not found else len(shown) >= min(found)


@given(st.text("abc", max_size=30), st.text("abc", min_size=1, max_size=5))
def test_one_stop_string_cuts_exactly_there(text, stop):
    assert "".join(deltas(text.encode(), [stop])) == text.split(stop)[0]


def test_what_may_begin_a_stop_string_is_held_back():
    assert deltas(b"ab</x", ["</s>"]) == ["a", "b", "", "", "</x", ""]


def test_what_was_held_back_is_shown_at_the_end():
    assert deltas(b"ab</", ["</s>"]) == ["a", "b", "", "", "</"]


@pytest.mark.parametrize("stops", [(), ("",)])
def test_without_stop_strings_nothing_is_held(stops):
    assert deltas(b"ab", stops) == ["a", "b", ""]


def test_bytes_that_are_no_text_come_out_as_replacements_at_the_end():
    assert "".join(deltas(b"a\xff\xfe")) == "a\ufffd\ufffd"


@given(
    st.text("ab\u00e9", max_size=20),
    st.text("ab\u00e9", max_size=20),
    st.text("ab\u00e9", min_size=1, max_size=3),
)
def test_the_first_tokens_are_not_searched_for_stop_strings(first, rest, stop):
    shown = "".join(deltas((first + rest).encode(), [stop], len(first.encode())))
    assert shown == first + rest.split(stop)[0]


def test_an_answer_that_ends_unsearched_shows_all_it_has():
    assert "".join(deltas(b"a\xff", ["\ufffd"], 2)) == "a\ufffd"
