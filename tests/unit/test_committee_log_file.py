"""The committee's log on a real disk."""

import os

import pytest

from node.committee_log import CommitteeLog
from node.errors import HomeError


def test_log_is_missing_written_appended_to_and_replaced(tmp_path):
    log = CommitteeLog(tmp_path / "committee.log")
    assert log.read() is None
    log.replace(b"first")
    log.append(b" second")
    assert log.read() == b"first second"
    log.replace(b"new")
    assert log.read() == b"new"
    assert (tmp_path / "committee.log").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["committee.log"]


def test_records_are_synced_before_the_call_returns(tmp_path, monkeypatch):
    log = CommitteeLog(tmp_path / "committee.log")
    synced = []
    fsync = os.fsync

    def noting(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    log.replace(b"first")
    assert synced[0] == 5
    assert len(synced) == 2  # the folder, too
    log.append(b" second")
    assert synced[2:] == [12]


def test_appending_never_makes_a_log_in_place_of_a_lost_one(tmp_path):
    with pytest.raises(HomeError, match="can't be written"):
        CommitteeLog(tmp_path / "committee.log").append(b"record")


def test_a_log_that_cannot_be_synced_is_said_to_be_unwritten(tmp_path, monkeypatch):
    log = CommitteeLog(tmp_path / "committee.log")
    log.replace(b"first")

    def failing(_descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(HomeError, match="Input/output error"):
        log.append(b"record")
