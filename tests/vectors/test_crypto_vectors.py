"""The specification's vectors hold for the code, and a second implementation of the onion comes to the same bytes."""

import json

import pytest

from crypto import errors
from crypto.dispersal import decode_clove, recover, split
from crypto.errors import AuthenticationError
from crypto.identity import IdentityKey, NodeId, check_signature
from crypto.onion import BuildTerms, Hop, OnionKey, OnionPublicKey, accept_build, start_build
from crypto.puzzle import check_puzzle
from crypto.sealed import SealingKey, unseal
from docs.spec import make_vectors
from tests.support import onion_reference as reference
from tests.support.entropy import ReplayedEntropy

VECTORS = {
    name: json.loads((make_vectors.VECTORS / f"{name}.json").read_text()) for name in make_vectors.MAKERS
}
unhex = bytes.fromhex


def cases(name, kind):
    entries = VECTORS[name][kind]
    return pytest.mark.parametrize(
        "case", entries, ids=[str(entry.get("why", at)) for at, entry in enumerate(entries)]
    )


@pytest.mark.parametrize("name", make_vectors.MAKERS)
def test_files_are_what_the_script_makes(name):
    assert (make_vectors.VECTORS / f"{name}.json").read_text() == make_vectors.encode(
        make_vectors.MAKERS[name]()
    )


@cases("signatures", "accepted")
def test_signature(case):
    key = IdentityKey.from_seed(unhex(case["seed"]))
    assert key.node_id == unhex(case["node_id"])
    assert key.sign(unhex(case["context"]), unhex(case["message"])) == unhex(case["signature"])


@cases("signatures", "refused")
def test_refused_signature(case):
    arguments = [unhex(case[name]) for name in ("context", "message", "signature")]
    with pytest.raises(AuthenticationError):
        check_signature(NodeId(unhex(case["node_id"])), *arguments)


@pytest.mark.parametrize("kind", ["accepted", "refused"])
def test_puzzles(kind):
    for case in VECTORS["puzzles"][kind]:
        node_id, ephemeral, nonce = (unhex(case[name]) for name in ("node_id", "ephemeral", "nonce"))
        solved = check_puzzle(NodeId(node_id), case["epoch"], ephemeral, nonce, case["difficulty"])
        assert solved == (kind == "accepted")


@cases("sealed", "accepted")
def test_sealed(case):
    key = SealingKey.from_bytes(unhex(case["secret"]))
    assert key.public == unhex(case["public"])
    assert unseal(key, unhex(case["sealed"]), info=unhex(case["info"])) == unhex(case["plaintext"])


@cases("sealed", "refused")
def test_refused_sealed(case):
    key = SealingKey.from_bytes(unhex(case["secret"]))
    with pytest.raises(getattr(errors, case["error"])):
        unseal(key, unhex(case["sealed"]), info=unhex(case["info"]))


@cases("cloves", "accepted")
def test_cloves(case):
    message, entropy = unhex(case["message"]), ReplayedEntropy(unhex(case["entropy"]))
    cloves = split(message, case["k"], case["n"], mid=unhex(case["mid"]), entropy=entropy)
    assert [clove.encode().hex() for clove in cloves] == case["cloves"]
    assert entropy.used_up
    assert recover(cloves[case["n"] - case["k"] :]).message == message


@cases("cloves", "repaired")
def test_repaired_cloves(case):
    recovered = recover(decode_clove(unhex(clove)) for clove in case["cloves"])
    assert (recovered.message.hex(), sorted(recovered.culprits)) == (case["message"], case["culprits"])


@cases("cloves", "refused")
def test_refused_clove(case):
    with pytest.raises(getattr(errors, case["error"])):
        decode_clove(unhex(case["clove"]))


def test_unrecoverable_cloves():
    case = VECTORS["cloves"]["unrecoverable"]
    with pytest.raises(getattr(errors, case["error"])):
        recover(decode_clove(unhex(clove)) for clove in case["cloves"])


@cases("onion", "accepted")
class TestOnion:
    def test_client_builds_the_same_body(self, case):
        hops = [
            Hop(NodeId(unhex(hop["node_id"])), OnionPublicKey(unhex(hop["onion_public"])), hop["epoch"])
            for hop in case["hops"]
        ]
        entropy = ReplayedEntropy(unhex(case["client_entropy"]))
        pending, body = start_build(hops, BuildTerms(**VECTORS["onion"]["terms"]), entropy=entropy)
        assert body.hex() == case["build"][0]
        assert entropy.used_up
        layers = pending.finish(unhex(case["built"][-1]))
        for cell in case["outbound"]:
            assert layers.wrap(unhex(cell["content"])).hex() == cell["bodies"][0]
        for cell in case["inbound"]:
            assert layers.peel(unhex(cell["bodies"][-1])).hex() == cell["content"]
        assert layers.reply_token(unhex(case["reply_token"]["message"])).hex() == case["reply_token"]["token"]

    def test_relays_answer_with_the_same_bodies(self, case):
        layers = []
        onward = [*case["build"][1:], case["built"][0]]
        for hop, body, expected in zip(case["hops"], case["build"], onward, strict=True):
            build = accept(hop | VECTORS["onion"]["terms"], body, ReplayedEntropy(unhex(hop["entropy"])))
            assert (build.next_id.hex() if build.next_id else None) == hop["next_id"]
            assert build.body.hex() == expected
            layers.append(build.layer)
        for body, expected, layer in zip(
            case["built"], case["built"][1:], reversed(layers[:-1]), strict=False
        ):
            assert layer.wrap_built(unhex(body)).hex() == expected
        for cell in case["outbound"]:
            arrived = [*cell["bodies"][1:], cell["content"]]
            for layer, body, expected in zip(layers, cell["bodies"], arrived, strict=True):
                assert layer.peel(unhex(body)).hex() == expected
        for cell in case["inbound"]:
            assert layers[-1].seal(unhex(cell["content"])).hex() == cell["bodies"][0]

    def test_reference_agrees_on_the_build(self, case):
        onward = [*case["build"][1:], None]
        for hop, body, expected in zip(case["hops"], case["build"], onward, strict=True):
            shared, drawn = reference_hop(hop), unhex(hop["entropy"])
            plaintext, answer = reference.answer_build(unhex(body), unhex(hop["node_id"]), shared, drawn[32:])
            assert (plaintext[:32].hex() if not plaintext[32] else None) == hop["next_id"]
            built = reference.hide_built(answer, shared).hex()
            assert answer.hex() == expected if expected else built == case["built"][0]
        for hop, before, after in zip(
            reversed(case["hops"][:-1]), case["built"], case["built"][1:], strict=False
        ):
            assert reference.hide_built(unhex(before), reference_hop(hop)).hex() == after

    def test_reference_agrees_on_the_cells(self, case):
        hops = [reference_hop(hop) for hop in case["hops"]]
        for number, cell in enumerate(case["outbound"]):
            body = unhex(cell["bodies"][0])
            for hop, expected in zip(hops, cell["bodies"], strict=True):
                assert body.hex() == expected
                body = reference.peel_outbound(body, hop, number)
            assert body[:968].hex() == cell["content"]
        for number, cell in enumerate(case["inbound"]):
            bodies = [reference.seal_inbound(unhex(cell["content"]), hops[-1], number)]
            for hop in reversed(hops[:-1]):
                bodies.append(reference.wrap_inbound(bodies[-1], hop, number))
            assert [body.hex() for body in bodies] == cell["bodies"]
        token = reference.reply_token(hops[-1], unhex(case["reply_token"]["message"]))
        assert token.hex() == case["reply_token"]["token"]


@cases("onion", "refused")
def test_refused_build(case):
    with pytest.raises(getattr(errors, case["error"])):
        accept(case, case["body"], bytes)


def accept(case, body, entropy):
    return accept_build(
        unhex(body),
        node_id=NodeId(unhex(case["node_id"])),
        keys=[(case["epoch"], OnionKey.from_bytes(unhex(case["onion_secret"])))],
        unix_minute=case["unix_minute"],
        seen=lambda _: False,
        difficulty=case.get("difficulty", 0),
        entropy=entropy,
    )


def reference_hop(hop):
    secrets = [unhex(hop[name]) for name in ("node_id", "onion_secret", "ephemeral", "entropy")]
    return reference.agree(*secrets[:3], secrets[3][:32])
