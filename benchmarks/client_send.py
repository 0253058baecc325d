"""What it costs a client to send one prompt: from the message to the cells on its links.

`make bench-client-send`, or `python benchmarks/client_send.py [--quick]`. A prompt of 16,000 bytes is split
into 4 cloves of which 2 suffice, each is sealed to the model node, cut into cells and wrapped for three
relays. Beside it: the primitives that no implementation of this protocol can do without, each timed by itself
on the same sizes. CPU time, the best of several rounds.
"""

import argparse
import os
from collections.abc import Callable
from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from benchmarks.report import Target, best_us, print_report
from crypto.dispersal import split
from crypto.erasure import generator_row
from crypto.identity import IdentityKey, NodeId
from crypto.onion import AcceptedBuild, BuildTerms, Hop, OnionKey, accept_build
from crypto.sealed import SealingKey, seal
from overlay.protocol.circuit import CircuitBuilt, CircuitMachine
from overlay.protocol.effects import SendCell
from overlay.wire.cells import Cell, CircuitId, Command, encode_cell
from overlay.wire.limits import CELL_BYTES, NEXT_FRAGMENT_BYTES

PROMPT_BYTES = 16_000
K, N, HOPS = 2, 4, 3
EPOCH, MINUTE = 1, 30_000_000
INFO = b"clove-seal/1|benchmark"
BAR_US, BAR_RATIO = 1500.0, 1.6


class Relay:
    """A hop's keys, enough to accept a build."""

    def __init__(self) -> None:
        self.node_id = IdentityKey.from_seed(os.urandom(32)).node_id
        self.key = OnionKey.generate(os.urandom)
        self.hop = Hop(self.node_id, self.key.public, EPOCH)

    def accept(self, body: bytes) -> AcceptedBuild:
        """Play this hop's part in a build."""
        return accept_build(
            body,
            node_id=self.node_id,
            keys=[(EPOCH, self.key)],
            unix_minute=MINUTE,
            seen=lambda _: False,
            difficulty=0,
            entropy=os.urandom,
        )


def open_circuit() -> CircuitMachine:
    """Build one circuit over fresh relays, in memory."""
    relays = [Relay() for _ in range(HOPS)]
    terms = BuildTerms(lifetime_s=600, quota=100, unix_minute=MINUTE)
    circuit = CircuitMachine(
        [relay.hop for relay in relays], circ_id=CircuitId(1), terms=terms, entropy=os.urandom
    )
    (sent,) = circuit.start(0.0)
    assert isinstance(sent, SendCell)
    body, accepted = sent.cell.body, []
    for relay in relays:
        accepted.append(relay.accept(body))
        body = accepted[-1].body
    for build in reversed(accepted[:-1]):
        body = build.layer.wrap_built(body)
    (built,) = circuit.receive_cell(Cell(circuit.circ_id, Command.BUILT, body), 0.0)
    assert isinstance(built, CircuitBuilt)
    return circuit


class Client:
    """Four open circuits and a model node to send to."""

    def __init__(self) -> None:
        self.prompt = os.urandom(PROMPT_BYTES)
        self.model = NodeId(os.urandom(32))
        self.model_key = SealingKey.generate(os.urandom)
        self.circuits = [open_circuit() for _ in range(N)]

    def seal_cloves(self) -> list[bytes]:
        """Split the prompt and seal each clove."""
        cloves = split(self.prompt, K, N, mid=os.urandom(16), entropy=os.urandom)
        return [seal(self.model_key.public, clove.encode(), info=INFO) for clove in cloves]

    def send(self) -> list[bytes]:
        """Do the whole of it: from the prompt to the bytes for the links."""
        message, cells = os.urandom(8), []
        for circuit, sealed in zip(self.circuits, self.seal_cloves(), strict=True):
            for effect in circuit.send_clove(self.model, message, sealed, 1.0):
                assert isinstance(effect, SendCell)
                cells.append(encode_cell(effect.cell))
            # A benchmark without a proxy to send SENDMEs: open the window by hand.
            circuit._window.open_cells = 100  # noqa: SLF001
        return cells


def primitive_actions(client: Client) -> dict[str, Callable[[], object]]:
    """Return each primitive by itself, on the sizes that one prompt has."""
    key, nonce = ChaCha20Poly1305(os.urandom(32)), bytes(12)
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    ciphertext = key.encrypt(nonce, client.prompt, b"")
    fragment = ciphertext[: len(ciphertext) // K]
    array, table = np.frombuffer(fragment, np.uint8), bytes(range(1, 256)) + b"\0"
    sealed, body, pad = client.seal_cloves()[0], bytes(1000), bytes(16)
    return {
        "encrypt prompt": lambda: key.encrypt(nonce, client.prompt, b""),
        "hash prompt": lambda: sha256(ciphertext).digest(),
        "to array": lambda: np.frombuffer(fragment, np.uint8),
        "product": lambda: fragment.translate(table),
        "sum": lambda: array ^ array,
        "to bytes": array.tobytes,
        "hpke": lambda: seal(client.model_key.public, fragment, info=INFO),
        "layer": lambda: key.encrypt(nonce, body, None),
        "padding": lambda: stream.update(pad),
        "copy": lambda: sealed[:NEXT_FRAGMENT_BYTES].ljust(CELL_BYTES, b"\0"),
    }


def sum_primitives(us: dict[str, float], cells: int) -> dict[str, float]:
    """Return how long the primitives of one whole prompt take, by what they are for."""
    made = [generator_row(K, index) for index in range(K, N)]
    terms = {term for row in made for term in enumerate(row)}
    return {
        "dispersal": us["encrypt prompt"]
        + us["hash prompt"]
        + len(terms) * us["to array"]
        + sum(factor != 1 for _, factor in terms) * us["product"]
        + len(made) * ((K - 1) * us["sum"] + us["to bytes"]),
        "hpke": N * us["hpke"],
        "layers": cells * HOPS * us["layer"],
        # What the hops will append must be known beforehand: their padding, and how each later hop's key stream
        # changes it. The library gives that stretch of key stream no cheaper than by sealing a whole body.
        "filler": cells * (HOPS - 1) * (us["padding"] + us["layer"]),
        "copies": cells * us["copy"],
    }


def main() -> None:
    """Measure, print a table and then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    rounds = 10 if parser.parse_args().quick else 100
    client = Client()
    cells = len(client.send())
    us = best_us(
        {"whole": client.send, "sealing": client.seal_cloves, **primitive_actions(client)},
        calls=5,
        rounds=rounds,
    )
    primitives = sum_primitives(us, cells)
    total_us, sealing_us, sum_us = us["whole"], us["sealing"], sum(primitives.values())
    print(f"{PROMPT_BYTES} bytes, {K} of {N} cloves, {cells} cells over {N} x {HOPS} hops (us of CPU)")
    print(f"  whole                 {total_us:8.1f}   {1e6 / total_us:8.0f} prompts/s")
    print(f"    split and seal      {sealing_us:8.1f}")
    print(
        f"    cells and layers    {total_us - sealing_us:8.1f}   {(total_us - sealing_us) / cells:8.2f} a cell"
    )
    print(f"  primitives            {sum_us:8.1f}")
    for name, cost_us in primitives.items():
        print(f"    {name:<20}{cost_us:8.1f}")
    results = {
        "cells": cells,
        "total_us": round(total_us, 1),
        "split_and_seal_us": round(sealing_us, 1),
        "primitives_us": {name: round(cost_us, 1) for name, cost_us in primitives.items()},
        "ratio": round(total_us / sum_us, 3),
        "ratio_without_filler": round(total_us / (sum_us - primitives["filler"]), 3),
    }
    what = f"{PROMPT_BYTES}-byte prompt, k = {K} of {N}, sealed, in cells, over {N} x {HOPS} hops"
    targets = [
        Target(f"{what}: us of CPU", round(total_us, 1), BAR_US, "lower"),
        Target(f"{what}: over the sum of its primitives", round(total_us / sum_us, 3), BAR_RATIO, "lower"),
    ]
    print_report("client_send", results, targets)


if __name__ == "__main__":
    main()
