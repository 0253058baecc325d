import pytest

from node.errors import KeyFileError
from node.keys import EPOCH_S, KeyRing

DAY = 20_000 * EPOCH_S


def test_keys_survive_a_restart(tmp_path):
    ring = KeyRing(tmp_path / "keys.json")
    assert ring.rotate(DAY)
    again = KeyRing(tmp_path / "keys.json")
    assert [k.onion.to_bytes() for k in again.keys] == [k.onion.to_bytes() for k in ring.keys]
    assert not again.rotate(DAY + EPOCH_S - 1)


def test_only_the_current_and_the_previous_epoch_are_kept(tmp_path):
    ring = KeyRing(tmp_path / "keys.json")
    for day in range(4):
        assert ring.rotate(DAY + day * EPOCH_S)
    assert [k.epoch for k in ring.keys] == [20_003, 20_002]
    assert [k.epoch for k in KeyRing(tmp_path / "keys.json").keys] == [20_003, 20_002]


def test_forgotten_keys_are_not_in_the_file(tmp_path):
    ring = KeyRing(tmp_path / "keys.json")
    ring.rotate(DAY)
    old = ring.keys[0].onion.to_bytes().hex()
    assert old in (tmp_path / "keys.json").read_text()
    ring.rotate(DAY + 2 * EPOCH_S)
    assert old not in (tmp_path / "keys.json").read_text()


@pytest.mark.parametrize("damage", ["", "[]", '{"1": ["00", "00"]}', '{"x": 1}', '{"1": "ab"}', "{}}"])
def test_damaged_file_names_the_remedy(tmp_path, damage):
    file = tmp_path / "keys.json"
    file.write_text(damage)
    file.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        KeyRing(file)
    assert caught.value.remedy
    assert str(file) in caught.value.remedy


def test_file_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "keys.json"
    KeyRing(file).rotate(DAY)
    file.chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        KeyRing(file)


def test_keys_are_not_in_reprs(tmp_path):
    ring = KeyRing(tmp_path / "keys.json")
    ring.rotate(DAY)
    assert ring.keys[0].onion.to_bytes().hex() not in repr(ring.keys)
    assert "onion" not in repr(ring.keys[0])
