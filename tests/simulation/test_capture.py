"""Nobody on the way can read a prompt or its answer, or follow a cell: shown at every relay, with Noise off.

The same assertions must fail when a test takes the protection off.
"""

from collections import defaultdict

import pytest

from overlay.wire.messages import AnswerCellSent, CloveDelivered, encode_message
from tests.support.capture import Seam, assert_nothing_readable, assert_nothing_recurs, assert_one_size
from tests.support.network import a_prompt, answer_to, network
from tests.support.unprotected import take_off_layers, take_off_sealing

PROMPT = "My doctor says that the lump behind my left knee is nothing. Should I believe her? " * 12


def payload_of(message):
    match message:
        case CloveDelivered(_, sealed):
            return sealed
        case AnswerCellSent(_, data):
            return data
        case _:
            return b""


class Capture:
    def __init__(self, net, told):
        wire = net.wire
        self.answer = told.text
        self.cells = [cell for _, _, cell in wire.cells]
        self.frames = [encode_message(message) for _, _, message in wire.messages]
        seams = defaultdict(Seam)
        for source, target, cell in wire.cells:
            seams[source].cells_out.append(cell)
            seams[target].cells_in.append(cell)
        for source, target, message in wire.messages:
            seams[source].payloads_out.append(payload_of(message))
            seams[target].payloads_in.append(payload_of(message))
        self.relays = {node.name: seams[node.node_id] for node in net.nodes.values() if node.relay}
        self.paths = [[seams[relay] for relay in path] for path in told.answering.paths_used]


async def capture(*, lose_relay=False):
    async with network() as net:
        net.wire.keeps = True
        prompt = a_prompt(PROMPT, tokens=60)

        async def during(told):
            if lose_relay and told.tokens == 20:
                await net.kill(told.answering.paths_used[0][1])

        told = await net.ask(prompt, during=during)
        assert told.text == answer_to(prompt)
        return Capture(net, told)


async def test_nothing_of_prompt_and_answer_can_be_read_or_followed(autojump_clock):
    captured = await capture()
    assert len(captured.paths) == 4
    for guard, middle, proxy in captured.paths:
        carried = [len(guard.cells_in), len(middle.cells_in), len(proxy.cells_out)]
        assert min(carried) > 30
        assert sum(map(bool, proxy.payloads_in)) > 30  # answer cells
        assert sum(map(bool, proxy.payloads_out)) == 1  # the clove
    assert_one_size(captured.cells)
    assert_nothing_readable(captured.cells + captured.frames, [PROMPT, captured.answer])
    assert_nothing_recurs(captured.relays)


async def test_nothing_can_be_read_or_followed_while_a_path_is_repaired(autojump_clock):
    captured = await capture(lose_relay=True)
    assert len(captured.paths) == 5
    assert_one_size(captured.cells)
    assert_nothing_readable(captured.cells + captured.frames, [PROMPT, captured.answer])
    assert_nothing_recurs(captured.relays)


async def test_without_layers_cells_can_be_followed(autojump_clock, monkeypatch):
    take_off_layers(monkeypatch)
    captured = await capture()
    assert_nothing_readable(captured.cells + captured.frames, [PROMPT, captured.answer])
    with pytest.raises(AssertionError, match="left it again"):
        assert_nothing_recurs(captured.relays)


@pytest.mark.parametrize("secret", ["prompt", "answer"])
async def test_without_sealing_proxies_can_read(autojump_clock, monkeypatch, secret):
    take_off_sealing(monkeypatch)
    captured = await capture()
    text = PROMPT if secret == "prompt" else captured.answer
    assert_nothing_readable(captured.cells, [text])
    with pytest.raises(AssertionError, match="can be read"):
        assert_nothing_readable(captured.frames, [text])


@pytest.mark.parametrize("secret", ["prompt", "answer"])
async def test_without_both_relays_can_read(autojump_clock, monkeypatch, secret):
    take_off_sealing(monkeypatch)
    take_off_layers(monkeypatch)
    captured = await capture()
    text = PROMPT if secret == "prompt" else captured.answer
    for path in captured.paths[:2]:  # they carry text as it stands, the other two a sum of theirs
        for seam in path:
            with pytest.raises(AssertionError, match="can be read"):
                assert_nothing_readable(seam.cells_in + seam.cells_out, [text])


def test_a_short_cell_is_noticed():
    with pytest.raises(AssertionError):
        assert_one_size([bytes(1024), bytes(1000)])
