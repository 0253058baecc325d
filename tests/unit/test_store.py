"""What lasts: bounded answers, the guard sample, descriptors; a damaged file is said, not swallowed."""

import sqlite3

import pytest

from node.errors import StoreError
from node.store import StoredAnswer, StoredDescriptor, open_store


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state.sqlite"


def numbered(number: int) -> StoredAnswer:
    return StoredAnswer(f"a{number}", float(number), f'{{"n": {number}}}', "{}")


def test_answers_survive_a_restart(file):
    store = open_store(file)
    store.keep_answer(numbered(1))
    store.close()
    store = open_store(file)
    assert store.answer("a1") == numbered(1)
    assert store.answer("a2") is None
    store.close()


def test_oldest_answers_go_when_the_bound_is_reached(file):
    store = open_store(file, kept_answers=3)
    for number in range(10):
        store.keep_answer(numbered(number))
    assert store.answer_ids() == ["a9", "a8", "a7"]
    store.close()


def test_last_names_the_newest_answer(file):
    store = open_store(file)
    assert store.answer("last") is None
    store.keep_answer(numbered(1))
    store.keep_answer(numbered(2))
    assert store.answer("last") == numbered(2)
    store.close()


def test_guard_sample_is_kept_over_a_restart(file):
    store = open_store(file)
    assert store.guards() is None
    store.save_guards(b"first")
    store.save_guards(b"second")
    store.close()
    store = open_store(file)
    assert store.guards() == b"second"
    store.close()


def test_only_newer_descriptors_replace_and_expired_ones_go(file):
    store = open_store(file)
    alice, bob = b"a" * 32, b"b" * 32
    store.save_descriptors(
        [StoredDescriptor(alice, 2, 200.0, b"new"), StoredDescriptor(bob, 1, 90.0, b"old")], 50.0
    )
    store.save_descriptors([StoredDescriptor(alice, 1, 300.0, b"stale")], 60.0)
    assert {d.node_id: d.blob for d in store.descriptors(60.0)} == {alice: b"new", bob: b"old"}
    store.save_descriptors([], 100.0)
    assert [d.node_id for d in store.descriptors(100.0)] == [alice]
    store.close()


def test_state_file_is_private(file):
    open_store(file).close()
    assert file.stat().st_mode & 0o777 == 0o600


def test_damaged_file_is_said_with_the_remedy(file):
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError) as caught:
        open_store(file)
    assert "mv " in str(caught.value.remedy)


def test_newer_schema_is_refused(file):
    open_store(file).close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        open_store(file)
