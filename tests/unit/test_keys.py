from node.keys import EPOCH_S, KeyRing

DAY = 20_000 * EPOCH_S


def test_keys_stay_the_same_within_an_epoch():
    ring = KeyRing()
    assert ring.rotate(DAY)
    held = ring.keys
    assert not ring.rotate(DAY + EPOCH_S - 1)
    assert ring.keys == held


def test_only_the_current_and_the_previous_epoch_are_kept():
    ring = KeyRing()
    for day in range(4):
        assert ring.rotate(DAY + day * EPOCH_S)
    assert [keys.epoch for keys in ring.keys] == [20_003, 20_002]


def test_the_previous_epoch_keeps_its_keys():
    ring = KeyRing()
    ring.rotate(DAY)
    old = ring.keys[0]
    ring.rotate(DAY + EPOCH_S)
    assert ring.keys[1] is old


def test_a_clock_that_went_back_leaves_no_key_of_an_epoch_to_come():
    ring = KeyRing()
    ring.rotate(DAY + 5 * EPOCH_S)
    ring.rotate(DAY)
    assert [keys.epoch for keys in ring.keys] == [20_000]


def test_keys_are_not_in_reprs():
    ring = KeyRing()
    ring.rotate(DAY)
    assert ring.keys[0].onion.to_bytes().hex() not in repr(ring.keys)
    assert "onion" not in repr(ring.keys[0])
