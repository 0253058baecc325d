import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.transport.addresses import (
    dialable,
    may_dial,
    node_id_of,
    parse_address,
    peer_id_bytes,
    peer_id_text,
)

ALICE = NodeId(bytes(range(32)))
BOB = NodeId(bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/203.0.113.7/tcp/4001",
        "/ip6/2001:db8::1/tcp/1",
        "/dns4/node.example.org/tcp/65535",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{peer_id_text(ALICE)}",
    ],
)
def test_an_address_is_read_and_written_back(text):
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "203.0.113.7:4001",
        "/ip4/203.0.113.7/udp/4001",
        "/ip4/203.0.113.7/tcp/4001/ws",
        "/ip4/203.0.113.7/tcp/65536",
        "/ip4/203.0.113.7/tcp/-1",
        "/ip4/203.0.113.7/tcp/\u0664",
        "/ip4/203.0.113/tcp/1",
        "/ip6/fe80::1%eth0/24/tcp/1",
        "/dns/not a name/tcp/1",
        "/ip4/203.0.113.7/tcp/1/p2p/",
        "/dns/" + "a" * 400 + "/tcp/1",
    ],
)
def test_other_shapes_are_refused(text):
    with pytest.raises(DecodeError):
        parse_address(text)


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["ip4", "ip6", "tcp", "p2p", "dns", "", "1"])).map("/".join)
)
def test_parser_raises_nothing_but_decode_error(text):
    try:
        address = parse_address(text)
    except DecodeError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
    ],
)
def test_private_addresses_are_for_local_networks_only(ip):
    assert not may_dial(ip, allow_private=False)
    assert may_dial(ip, allow_private=True)


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "224.0.0.1", "ff02::1"])  # noqa: S104 - not bound to
def test_addresses_of_no_one_host_are_never_dialled(ip):
    assert not may_dial(ip, allow_private=True)


def test_what_strangers_announce_is_sifted():
    good, named = "/ip4/9.9.9.9/tcp/1", "/dns/node.example.org/tcp/1"
    announced = [
        good,
        named,
        "junk",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/9.9.9.9/tcp/0",
        f"/ip4/9.9.9.9/tcp/1/p2p/{peer_id_text(BOB)}",
        f"/ip4/9.9.9.9/tcp/2/p2p/{peer_id_text(ALICE)}",
    ]
    assert list(map(str, dialable(announced, ALICE, allow_private=False))) == [good, named, announced[-1]]


@given(st.binary(min_size=32, max_size=32))
def test_node_ids_and_peer_ids_are_one_to_one(key):
    assert node_id_of(peer_id_bytes(NodeId(key))) == key
    assert peer_id_text(NodeId(key)).startswith("12D3KooW")


@pytest.mark.parametrize("peer_id", [b"", bytes(38), peer_id_bytes(ALICE)[:-1], peer_id_bytes(ALICE) + b"\0"])
def test_a_peer_id_of_another_kind_is_no_node(peer_id):
    with pytest.raises(DecodeError):
        node_id_of(peer_id)
