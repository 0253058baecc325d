"""The product with its protection taken off, to prove that a test which looks for leaks would find them.

Lengths stay what they are, so everything else works as before. Only tests may import this.
"""

import crypto.dispersal
import overlay.protocol.answer_cell
import overlay.protocol.envelope
from crypto.layers import CONTENT_BYTES, INBOUND_CONTENT_BYTES, ClientLayers, RelayLayer

TAG = bytes(16)


class PlainKey:
    """An AEAD key that seals nothing."""

    def __init__(self, _key) -> None:
        pass

    def seal(self, _nonce, plaintext, _aad=b""):
        return plaintext + TAG

    def open(self, _nonce, sealed, _aad=b""):
        return sealed[: -len(TAG)]


def take_off_sealing(monkeypatch) -> None:
    """Cloves, updates and answer cells travel in clear inside the layers."""
    envelope = overlay.protocol.envelope
    monkeypatch.setattr(envelope, "seal", lambda _public, plaintext, *, info: bytes(48) + plaintext)
    monkeypatch.setattr(envelope, "unseal", lambda _key, sealed, *, info: sealed[48:])
    for module in (crypto.dispersal, overlay.protocol.answer_cell, envelope):
        monkeypatch.setattr(module, "AeadKey", PlainKey)


def take_off_layers(monkeypatch) -> None:
    """Cells pass relays unchanged, and show the contents that the client gave them."""
    monkeypatch.setattr(ClientLayers, "wrap", lambda _self, content: content + 3 * TAG)
    monkeypatch.setattr(ClientLayers, "peel", lambda _self, body: body[:INBOUND_CONTENT_BYTES])
    monkeypatch.setattr(RelayLayer, "peel", lambda self, body: body[:CONTENT_BYTES] if self.is_last else body)
    monkeypatch.setattr(RelayLayer, "wrap", lambda _self, body: body)
    monkeypatch.setattr(RelayLayer, "seal", lambda _self, content: content + TAG)
