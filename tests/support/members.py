"""Members of a model group in a simulated network: waiting until they know each other, and ones that do wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from crypto.identity import NodeId
from node.engine.block_manager import PUBLIC_SCOPE
from node.serving.model_group import ModelGroup
from overlay.wire.group import GroupId
from overlay.wire.group_messages import GroupMessage
from overlay.wire.handover import HandMessage
from overlay.wire.prompt import Prompt
from tests.support.group_engine import GroupEngine, WordMeter
from tests.support.network import Network, Node, Told, network
from tests.support.scripted_engine import CARD
from verify.receipt import decode_receipt

LOOK_S = 0.05
GOSSIP_S = 3.0
"""Virtual time in which all that a member has told is with every other one."""


@asynccontextmanager
async def group_network(*engines: GroupEngine, forward="group", skews=None) -> AsyncIterator[Network]:
    """A network whose model nodes know each other's loads, and whose client has circuits to the first one alone."""
    async with network(engines=engines, forward=forward, skews=skews) as net:
        members = [net[f"m{number}"] for number in range(len(engines))]
        await until(lambda: all(len(others_of(node)) == len(engines) - 1 for node in members))
        await net.circuits("m0")
        yield net


async def until(is_so: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Look again and again; virtual time costs nothing."""
    with trio.fail_after(timeout_s):
        while not is_so():  # noqa: ASYNC110 - what is looked at tells nobody that it changes
            await trio.sleep(LOOK_S)


def group_of(node: Node) -> ModelGroup:
    assert node.groups is not None
    group = node.groups.own_group_of(CARD.alias)
    assert group is not None
    return group


def others_of(node: Node):
    assert node.groups is not None
    group = node.groups.own_group_of(CARD.alias)
    return () if group is None else group.others


async def until_told(net: Network, *, by: str) -> None:
    """Wait until the first member knows a member's load as it is now, and has known it long enough to ask again."""
    since = trio.current_time()
    machine, member = group_of(net["m0"]).machine, net[by].node_id
    await until(lambda: machine.load_of(member).received_at > since + 0.3)
    heard = machine.load_of(member).received_at
    await until(lambda: trio.current_time() > heard + 0.15)


async def public_chain(node: Node, prompt: Prompt):
    """The names of a public prompt's blocks in the node's group now."""
    assert node.groups is not None
    key = group_of(node).block_key
    return (await WordMeter().measure(prompt, key=key, scope=PUBLIC_SCOPE)).chain


def author_of(told: Told) -> NodeId:
    """Who signed the receipt of an answer."""
    assert told.receipt is not None
    signed = decode_receipt(told.receipt)
    signed.check()
    return signed.signer


class Meddler:
    """Sits before a member's groups and does with what comes whatever `meddle` does; True: it has taken it."""

    def __init__(self, node: Node, meddle: Callable[[NodeId, GroupMessage | HandMessage], object]) -> None:
        assert node.groups is not None
        self.seen: list[GroupMessage | HandMessage] = []
        self._groups = node.groups
        self._meddle = meddle
        node.switch.groups = self

    def group_message(self, peer: NodeId, message: GroupMessage | HandMessage) -> None:
        self.seen.append(message)
        if not self._meddle(peer, message):
            self._groups.group_message(peer, message)

    def neighbour_lost(self, peer: NodeId) -> None:
        self._groups.neighbour_lost(peer)


def group_id_of(net: Network) -> GroupId:
    return group_of(net["m0"]).id
