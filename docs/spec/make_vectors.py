"""Makes docs/spec/vectors/*.json from fixed seeds: `python -m docs.spec.make_vectors` in the repository's root.

All byte strings are hex. `entropy` lists, in order, every byte that was drawn, so an implementation whose
draws come in the order that the specification gives can be compared byte by byte. `refused` holds what must
not be accepted, and with which kind of error: DecodeError (malformed) or AuthenticationError (well-formed but
false).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from crypto.build import SLOT_BYTES, AcceptedBuild
from crypto.dispersal import Clove, recover, split
from crypto.identity import IdentityKey
from crypto.onion import start_build
from crypto.puzzle import solve_puzzle
from crypto.sealed import SealingKey
from tests.support.entropy import RecordedEntropy, fixed_entropy
from tests.support.hpke_reference import hpke_seal
from tests.support.low_order import LOW_ORDER_X25519
from tests.support.onion import EPOCH, TERMS, UNIX_MINUTE, Circuit, Relay, make_relays
from tests.support.onion_reference import ReferenceHop, agree

Vector = dict[str, object]

VECTORS = Path(__file__).parent / "vectors"
SEED = "clovenet vectors 1"


def make_signatures() -> Vector:
    """Ed25519 with a context."""
    key = IdentityKey.generate(fixed_entropy(f"{SEED} identity"))
    signature = key.sign(b"vector", b"hello")
    case = {"node_id": key.node_id.hex(), "context": b"vector".hex(), "message": b"hello".hex()}
    identity_point = (1).to_bytes(32, "little")
    return {
        "accepted": [{"seed": key.seed.hex(), **case, "signature": signature.hex()}],
        "refused": [
            {"why": "another context", **case, "context": b"vectos".hex(), "signature": signature.hex()},
            {"why": "another message", **case, "message": b"hellp".hex(), "signature": signature.hex()},
            {"why": "truncated", **case, "signature": signature[:-1].hex()},
            {
                "why": "a key of small order, for which this signature fits every message",
                **case,
                "node_id": identity_point.hex(),
                "signature": (identity_point + bytes(32)).hex(),
            },
        ],
    }


def make_puzzles() -> Vector:
    """Solutions of 0, 8 and 12 bits."""
    key = IdentityKey.generate(fixed_entropy(f"{SEED} puzzle"))
    ephemeral = fixed_entropy(f"{SEED} puzzle key")(32)
    cases = []
    for bits in (0, 8, 12):
        nonce = solve_puzzle(key.node_id, EPOCH, ephemeral, bits, entropy=fixed_entropy(f"{SEED} {bits}"))
        cases.append({"difficulty": bits, "nonce": nonce.hex()})
    common = {"node_id": key.node_id.hex(), "epoch": EPOCH, "ephemeral": ephemeral.hex()}
    wrong = {**cases[-1], "difficulty": 32, "why": "not that many zero bits"}
    return {"accepted": [common | case for case in cases], "refused": [common | wrong]}


def make_sealed() -> Vector:
    """HPKE with a known ephemeral key, by the reference implementation."""
    key = SealingKey.generate(fixed_entropy(f"{SEED} sealing"))
    ephemeral = fixed_entropy(f"{SEED} sealing ephemeral")(32)
    info, plaintext = b"clove-seal/1|vector", b"hello, model"
    sealed = hpke_seal(key.public, plaintext, info, ephemeral)
    common = {"secret": key.to_bytes().hex(), "public": key.public.hex(), "info": info.hex()}
    refused = [
        ("truncated to less than a tag", sealed[:47], "DecodeError"),
        ("truncated", sealed[:-1], "AuthenticationError"),
        ("a bit changed in the ciphertext", _flip(sealed, 33), "AuthenticationError"),
        ("the unused top bit of the key changed", _flip(sealed, 31, 0x80), "AuthenticationError"),
        *(
            (f"a key of low order: {point}", bytes.fromhex(point) + sealed[32:], "AuthenticationError")
            for point in LOW_ORDER_X25519
        ),
    ]
    return {
        "accepted": [
            common | {"ephemeral": ephemeral.hex(), "plaintext": plaintext.hex(), "sealed": sealed.hex()}
        ],
        "refused": [
            common | {"why": why, "sealed": changed.hex(), "error": error} for why, changed, error in refused
        ],
    }


def make_cloves() -> Vector:
    """Splits of several sizes and codes; sets of cloves with false ones among them; malformed cloves."""
    accepted = []
    for length, k, n in ((0, 1, 1), (5, 2, 4), (64, 3, 4), (100, 2, 3), (33, 5, 9)):
        entropy = RecordedEntropy(fixed_entropy(f"{SEED} clove {length} {k} {n}"))
        message, mid = bytes(range(length)), fixed_entropy(f"{SEED} mid {length}")(16)
        cloves = split(message, k, n, mid=mid, entropy=entropy)
        accepted.append(
            {
                "k": k,
                "n": n,
                "mid": mid.hex(),
                "message": message.hex(),
                "entropy": entropy.drawn.hex(),
                "cloves": [clove.encode().hex() for clove in cloves],
            }
        )
    good = split(b"hello", 2, 4, mid=bytes(16), entropy=fixed_entropy(f"{SEED} repair"))
    return {
        "accepted": accepted,
        "repaired": [_repair(good, index) for index in range(4)],
        "refused": _malformed_cloves(good[0].encode()),
        "unrecoverable": {
            "why": "two cloves of k = 2, one of them false",
            "cloves": [good[0].encode().hex(), replace(good[1], share=bytes(32)).encode().hex()],
            "error": "AuthenticationError",
        },
    }


def _repair(good: list[Clove], index: int) -> Vector:
    cloves = [
        replace(clove, share=_flip(clove.share, 7)) if clove.index == index else clove for clove in good
    ]
    recovered = recover(cloves)
    return {
        "cloves": [clove.encode().hex() for clove in cloves],
        "message": recovered.message.hex(),
        "culprits": sorted(recovered.culprits),
    }


def _malformed_cloves(clove: bytes) -> list[Vector]:
    changes: list[tuple[str, bytes]] = [
        ("empty", b""),
        ("header cut", clove[:87]),
        ("fragment cut", clove[:-1]),
        ("fragment too long", clove + b"\0"),
        ("version 2", b"\x02" + clove[1:]),
        ("k = 0", clove[:1] + b"\0" + clove[2:]),
        ("k > n", clove[:1] + b"\5" + clove[2:]),
        ("n = 17", clove[:2] + b"\x11" + clove[3:]),
        ("index = n", clove[:3] + b"\4" + clove[4:]),
        ("length over the bound", clove[:20] + b"\xff\xff\xff\xff" + clove[24:]),
    ]
    return [{"why": why, "clove": data.hex(), "error": "DecodeError"} for why, data in changes]


def make_onion() -> Vector:
    """Circuits of one, two and three hops: BUILD, BUILT, keys, cells both ways; builds that a relay refuses."""
    return {
        "terms": asdict(TERMS),
        "accepted": [_circuit(hops) for hops in (1, 2, 3)],
        "refused": _refused_builds(),
    }


def _circuit(hops: int) -> Vector:
    relays = make_relays(hops, fixed_entropy(f"{SEED} relays {hops}"))
    client_entropy = RecordedEntropy(fixed_entropy(f"{SEED} client {hops}"))
    pending, body = start_build([relay.hop() for relay in relays], TERMS, entropy=client_entropy)
    builds, accepted, shared, draws = [], [], [], []
    for number, relay in enumerate(relays):
        entropy = RecordedEntropy(fixed_entropy(f"{SEED} relay {number} of {hops}"))
        builds.append(body)
        accepted.append(relay.accept(body, entropy))
        body = accepted[-1].body
        draws.append(entropy.drawn)
        shared.append(
            agree(relay.node_id, relay.onion_key.to_bytes(), accepted[-1].ephemeral, entropy.drawn[:32])
        )
    built = [accepted[-1].body]
    for build in reversed(accepted[:-1]):
        built.append(build.layer.wrap_built(built[-1]))
    circuit = Circuit(pending.finish(built[-1]), tuple(build.layer for build in accepted), (), ())
    return {
        "hops": [_hop(*parts) for parts in zip(relays, accepted, shared, draws, strict=True)],
        "client_entropy": client_entropy.drawn.hex(),
        "build": [body.hex() for body in builds],
        "built": [body.hex() for body in built],
        "outbound": [_cell(circuit.send_outbound, content) for content in _contents(968)],
        "inbound": [_cell(circuit.send_inbound, content) for content in _contents(1000)],
        "reply_token": {
            "message": b"message1".hex(),
            "token": circuit.client.reply_token(b"message1").hex(),
        },
    }


def _hop(relay: Relay, build: AcceptedBuild, shared: ReferenceHop, drawn: bytes) -> Vector:
    keys = {name: value.hex() for name, value in asdict(shared).items()}
    return {
        "node_id": relay.node_id.hex(),
        "onion_secret": relay.onion_key.to_bytes().hex(),
        "onion_public": relay.onion_key.public.hex(),
        "epoch": EPOCH,
        "entropy": drawn.hex(),
        "next_id": build.next_id.hex() if build.next_id else None,
        "ephemeral": build.ephemeral.hex(),
        "keys": keys,
    }


def _cell(send: Callable[[bytes], tuple[bytes, list[bytes]]], content: bytes) -> Vector:
    return {"content": content.hex(), "bodies": [body.hex() for body in send(content)[1]]}


def _contents(length: int) -> list[bytes]:
    return [bytes(length), bytes(number % 256 for number in range(length)), bytes(length)]


def _refused_builds() -> list[Vector]:
    relay, other = make_relays(2, fixed_entropy(f"{SEED} refused relays"))
    body = start_build([relay.hop()], TERMS, entropy=fixed_entropy(f"{SEED} refused client"))[1]
    at = next(a for a in range(0, 640, SLOT_BYTES) if body[a:].startswith(relay.node_id[:16]))
    low = bytes.fromhex(LOW_ORDER_X25519[2])
    changes: list[tuple[str, bytes, dict[str, int], str]] = [
        ("cut by a byte", body[:-1], {}, "DecodeError"),
        ("no slot for this relay", _flip(body, at), {}, "DecodeError"),
        ("X of low order", body[: at + 16] + low + body[at + 48 :], {}, "AuthenticationError"),
        ("X with its unused top bit set", _flip(body, at + 47, 0x80), {}, "AuthenticationError"),
        ("a bit of the ciphertext changed", _flip(body, at + 60), {}, "AuthenticationError"),
        ("a bit of the tag changed", _flip(body, at + 127), {}, "AuthenticationError"),
        (
            "for another relay, renamed",
            body.replace(relay.node_id[:16], other.node_id[:16]),
            {"other": 1},
            "AuthenticationError",
        ),
        ("another epoch", body, {"epoch": EPOCH + 1}, "AuthenticationError"),
        ("six minutes old", body, {"unix_minute": UNIX_MINUTE + 6}, "AuthenticationError"),
        ("puzzle not solved", body, {"difficulty": 20}, "AuthenticationError"),
    ]
    cases = []
    for why, changed, settings, error in changes:
        who = other if settings.pop("other", 0) else relay
        case = {
            "why": why,
            "node_id": who.node_id.hex(),
            "onion_secret": who.onion_key.to_bytes().hex(),
            "epoch": EPOCH,
            "unix_minute": UNIX_MINUTE,
            "difficulty": 0,
            "body": changed.hex(),
            "error": error,
        }
        cases.append(case | settings)
    return cases


def _flip(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


MAKERS: dict[str, Callable[[], Vector]] = {
    "signatures": make_signatures,
    "puzzles": make_puzzles,
    "sealed": make_sealed,
    "cloves": make_cloves,
    "onion": make_onion,
}


def encode(vector: Vector) -> str:
    """The text of a vector file."""
    return json.dumps(vector, indent=1) + "\n"


def main() -> None:
    """Writes every file."""
    VECTORS.mkdir(exist_ok=True)
    for name, make in MAKERS.items():
        (VECTORS / f"{name}.json").write_text(encode(make()))


if __name__ == "__main__":
    main()
