"""How many cells a second a relay passes on: the machine alone, and three relays over libp2p on loopback.

`make bench-relay-cells`, or `python benchmarks/relay_cells.py [--quick]`. The machine's part is CPU time from
the bytes of a cell to the bytes of the next, with the layers taken off or put on. The network's part runs a
client, three relays and their libp2p hosts in one process, on one core: cloves go over three layered hops,
through links and end-to-end windows, and the same bytes over one bare libp2p stream between two such hosts.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time

import trio

from benchmarks.report import Target, print_report
from crypto.identity import IdentityKey, NodeId
from crypto.onion import BuildTerms, Hop, OnionKey
from overlay.protocol.circuit import CircuitBuilt, CircuitClosed, CircuitMachine, CircuitOutput
from overlay.protocol.effects import DeliverClove, Effect, OpenLink, SendCell
from overlay.protocol.link import LINK_VERSION
from overlay.protocol.relay import RelayMachine
from overlay.transport.base import Connection
from overlay.transport.libp2p_host import Libp2pTransport
from overlay.transport.links import Link, Links
from overlay.wire.cells import choose_circuit_id, decode_cell, encode_cell
from overlay.wire.limits import ANSWER_CELL_BYTES, CELL_BYTES, FIRST_FRAGMENT_BYTES, NEXT_FRAGMENT_BYTES
from overlay.wire.messages import ControlMessage, Hello

EPOCH = 1
UNIX_TIME = 1_800_000_000.0
MODEL = NodeId(b"\xaa" * 32)
CLOVE_CELLS = 50
CLOVE = bytes(FIRST_FRAGMENT_BYTES + (CLOVE_CELLS - 1) * NEXT_FRAGMENT_BYTES)
TERMS = BuildTerms(lifetime_s=600, quota=1000, unix_minute=int(UNIX_TIME // 60))
WRITE_BYTES = 64 * CELL_BYTES


class Relay:
    """A relay machine and what a client must know of it."""

    def __init__(self, seed: bytes) -> None:
        key = OnionKey.generate(os.urandom)
        self.node_id = IdentityKey.from_seed(seed).node_id
        self.hop = Hop(self.node_id, key.public, EPOCH)
        self.machine = RelayMachine(
            self.node_id,
            entropy=os.urandom,
            may_extend_to=lambda _: True,
            may_deliver_to=lambda _: True,
        )
        self.machine.set_keys([(EPOCH, key)])

    def receive(self, peer: NodeId, data: bytes) -> list[Effect]:
        """Take the bytes of a cell in."""
        return self.machine.receive_cell(peer, decode_cell(data), 1.0, UNIX_TIME)


# --- the machine ------------------------------------------------------------------------------------------


class Chain:
    """A client and three relays without a network: builds one circuit and hands out cells for any hop."""

    def __init__(self) -> None:
        self.client_id = IdentityKey.from_seed(os.urandom(32)).node_id
        self.relays = [Relay(os.urandom(32)) for _ in range(3)]
        first = self.relays[0].node_id
        circ_id = choose_circuit_id(self.client_id, first, taken=lambda _: False, entropy=os.urandom)
        self.circuit = CircuitMachine(
            [relay.hop for relay in self.relays], circ_id=circ_id, terms=TERMS, entropy=os.urandom
        )
        (build,) = self.circuit.start(0.0)
        assert isinstance(build, SendCell)
        self.pass_on(self.client_id, build)

    def pass_on(self, source: NodeId, sent: SendCell) -> None:
        """Carry a cell, and all that follows from it, to its end."""
        if sent.peer == self.client_id:
            self.circuit.receive_cell(sent.cell, 1.0)
            return
        relay = next(each for each in self.relays if each.node_id == sent.peer)
        effects = relay.machine.receive_cell(source, sent.cell, 1.0, UNIX_TIME)
        for effect in effects:
            if isinstance(effect, OpenLink):
                (onward,) = relay.machine.link_ready(effect.peer, 1.0)
                assert isinstance(onward, SendCell)
                self.pass_on(relay.node_id, onward)
            elif isinstance(effect, SendCell):
                self.pass_on(relay.node_id, effect)

    def client_cells(self, count: int) -> list[bytes]:
        """Return clove cells as the client sends them."""
        cells: list[bytes] = []
        while len(cells) < count:
            self.circuit._window.open_cells = 100  # noqa: SLF001
            outputs = self.circuit.send_clove(MODEL, os.urandom(8), CLOVE, 1.0)
            cells += [encode_cell(output.cell) for output in outputs if isinstance(output, SendCell)]
        return cells[:count]


def time_hop(relay: Relay, peer: NodeId, cells: list[bytes]) -> tuple[float, list[bytes]]:
    """Pass cells through one machine; CPU microseconds per cell, and the cells that came out."""
    came_out: list[bytes] = []
    start = process_time()
    for data in cells:
        effects = relay.receive(peer, data)
        came_out += [encode_cell(effect.cell) for effect in effects if isinstance(effect, SendCell)]
    return (process_time() - start) / len(cells) * 1e6, came_out


def time_answers(proxy: Relay, token: bytes, count: int) -> tuple[float, list[bytes]]:
    """Seal answer cells at the last hop, the window held open."""
    data, came_out = os.urandom(ANSWER_CELL_BYTES), []
    end = next(iter(proxy.machine._table)).proxy  # noqa: SLF001
    assert end is not None
    start = process_time()
    for _ in range(count):
        end._window.open_cells = 100  # noqa: SLF001
        for effect in proxy.machine.receive_answer(MODEL, token, data, 1.0):
            assert isinstance(effect, SendCell)
            came_out.append(encode_cell(effect.cell))
    return (process_time() - start) / count * 1e6, came_out


def measure_machine(count: int, rounds: int) -> dict[str, float]:
    """Return CPU microseconds per cell of each thing that a relay does, best of several rounds."""
    costs: dict[str, list[float]] = {name: [] for name in ("outbound", "deliver", "answer", "inbound")}
    for _ in range(rounds):
        chain = Chain()
        first, middle, last = chain.relays
        cost, cells = time_hop(first, chain.client_id, chain.client_cells(count))
        costs["outbound"].append(cost)
        cost, cells = time_hop(middle, first.node_id, cells)
        costs["outbound"].append(cost)
        cost, _ = time_hop(last, middle.node_id, cells)
        costs["deliver"].append(cost)
        token = next(iter(last.machine._replies))  # noqa: SLF001
        cost, cells = time_answers(last, token, count)
        costs["answer"].append(cost)
        cost, _ = time_hop(middle, last.node_id, cells)
        costs["inbound"].append(cost)
    return {name: min(values) for name, values in costs.items()}


# --- three hops over libp2p -------------------------------------------------------------------------------


@dataclass
class Node:
    """A libp2p host with its links, and a relay machine or a client's circuit behind them."""

    transport: Libp2pTransport
    relay: Relay
    addresses: dict[NodeId, tuple[str, ...]]
    circuit: CircuitMachine | None = None
    cloves: int = 0
    changed: trio.Event = field(default_factory=trio.Event)
    nursery: trio.Nursery | None = None

    def __post_init__(self) -> None:
        hello = Hello(LINK_VERSION, b"benchmark", difficulty=0, unix_time=int(UNIX_TIME))
        self.links = Links(self.transport, self, lambda: hello)

    def link_opened(self, link: Link) -> None:
        """`LinkHandler`."""

    def link_closed(self, peer: NodeId, reason: str) -> None:
        """`LinkHandler`."""
        self.wake()

    def message_received(self, link: Link, message: ControlMessage) -> None:
        """`LinkHandler`."""

    def cell_received(self, link: Link, cell: bytes) -> None:
        """`LinkHandler`: the way of every cell."""
        if self.circuit is not None:
            self.perform(self.circuit.receive_cell(decode_cell(cell), trio.current_time()))
        else:
            self.perform(self.relay.receive(link.peer, cell))

    def perform(self, outputs: "list[Effect] | list[CircuitOutput]") -> None:
        """Carry out what a machine asked for."""
        for output in outputs:
            if isinstance(output, SendCell):
                link = self.links.get(output.peer)
                if link is not None:  # none is left at the end of the run
                    link.send_cell(encode_cell(output.cell), output.cell.circ_id)
            elif isinstance(output, OpenLink):
                assert self.nursery is not None
                self.nursery.start_soon(self.extend, output.peer)
            elif isinstance(output, DeliverClove):
                self.cloves += 1
                self.wake()
            elif isinstance(output, CircuitBuilt | CircuitClosed):
                self.wake()

    async def extend(self, peer: NodeId) -> None:
        """Open the link that a circuit waits for."""
        await self.links.link_to(peer, self.addresses[peer])
        self.perform(self.relay.machine.link_ready(peer, trio.current_time()))

    def wake(self) -> None:
        """Let `until` look again."""
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        with trio.fail_after(60):
            while not condition():
                await self.changed.wait()


@asynccontextmanager
async def running_nodes(count: int) -> "Iterator[list[Node]]":
    """Run hosts on loopback that know each other's addresses."""
    addresses: dict[NodeId, tuple[str, ...]] = {}
    async with trio.open_nursery() as nursery:
        nodes = []
        for _ in range(count):
            seed = os.urandom(32)
            transport = Libp2pTransport(seed, ["/ip4/127.0.0.1/tcp/0"], allow_private=True)
            node = Node(transport, Relay(seed), addresses, nursery=nursery)
            await nursery.start(node.links.serve)
            addresses[node.relay.node_id] = transport.addresses
            nodes.append(node)
        yield nodes
        for node in nodes:
            for link in node.links.open_links():
                link.close("done")
        for node in nodes:
            await node.until(lambda node=node: not node.links.open_links())
        await trio.sleep(1.0)  # libp2p takes a while to close what lies beneath
        nursery.cancel_scope.cancel()


async def measure_hops(cloves: int) -> dict[str, float]:
    """Send cloves over three relays; wall and CPU time for all four nodes together."""
    async with running_nodes(4) as (client, *relays):
        guard = relays[0].relay.node_id
        await client.links.link_to(guard, client.addresses[guard])
        own = client.relay.node_id
        circ_id = choose_circuit_id(own, guard, taken=lambda _: False, entropy=os.urandom)
        client.circuit = CircuitMachine(
            [node.relay.hop for node in relays], circ_id=circ_id, terms=TERMS, entropy=os.urandom
        )
        start = perf_counter()
        client.perform(client.circuit.start(trio.current_time()))
        await client.until(lambda: client.circuit is not None and client.circuit.state.name == "OPEN")
        build_s = perf_counter() - start
        proxy = relays[-1]
        start, start_cpu = perf_counter(), process_time()
        for number in range(cloves):
            # Two cloves under way keep the window of 100 cells full.
            await proxy.until(lambda number=number: proxy.cloves >= number - 2)
            client.perform(client.circuit.send_clove(MODEL, os.urandom(8), CLOVE, trio.current_time()))
        await proxy.until(lambda: proxy.cloves == cloves)
        wall_s, cpu_s = perf_counter() - start, process_time() - start_cpu
    cells = cloves * CLOVE_CELLS
    return {
        "build_ms": build_s * 1e3,
        "cells_per_s": cells / wall_s,
        "cpu_us_per_cell": cpu_s / cells * 1e6,
    }


async def measure_bare(cells: int) -> dict[str, float]:
    """Send the same bytes over one libp2p stream between two hosts, 64 KB a write."""
    total = cells * CELL_BYTES
    arrived = trio.Event()

    async def accept(connection: Connection) -> None:
        left = total
        while left > 0 and (data := await connection.cells.receive_some(WRITE_BYTES)):
            left -= len(data)
        arrived.set()
        await trio.sleep_forever()

    async def refuse(_connection: Connection) -> None:
        return

    near = Libp2pTransport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"], allow_private=True)
    far = Libp2pTransport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"], allow_private=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(far.serve, accept)
        await nursery.start(near.serve, refuse)
        connection = await near.dial(far.node_id, far.addresses)
        payload = os.urandom(WRITE_BYTES)
        start, start_cpu = perf_counter(), process_time()
        for sent in range(0, total, WRITE_BYTES):
            await connection.cells.send_all(payload[: total - sent])
        with trio.fail_after(60):
            await arrived.wait()
        wall_s, cpu_s = perf_counter() - start, process_time() - start_cpu
        nursery.cancel_scope.cancel()
    return {"cells_per_s": cells / wall_s, "cpu_us_per_cell": cpu_s / cells * 1e6}


def rounded(row: dict[str, float]) -> dict[str, float]:
    """Round figures for the report."""
    return {name: round(value, 2) for name, value in row.items()}


def main() -> None:
    """Measure, print tables and then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cells, for CI")
    parser.add_argument("--no-network", action="store_true", help="the machine's part only")
    options = parser.parse_args()
    machine = measure_machine(500 if options.quick else 4000, 2 if options.quick else 5)
    print("one relay machine, bytes to bytes (CPU)")
    for name, cost_us in machine.items():
        print(f"  {name:<10}{cost_us:8.2f} us a cell {1e6 / cost_us:10.0f} cells/s")
    results: dict[str, object] = {"machine_us_per_cell": rounded(machine)}
    targets: list[Target] = []
    if not options.no_network:
        cloves = 20 if options.quick else 200
        hops = trio.run(measure_hops, cloves)
        bare = trio.run(measure_bare, cloves * CLOVE_CELLS)
        print("over libp2p on loopback, all hosts in one process")
        print(f"  build of a circuit     {hops['build_ms']:8.1f} ms")
        for name, row in (("three layered hops", hops), ("one bare stream", bare)):
            print(
                f"  {name:<20}{row['cells_per_s']:10.0f} cells/s {row['cpu_us_per_cell']:8.1f} us of CPU a cell"
            )
        share = 3 * bare["cpu_us_per_cell"] / hops["cpu_us_per_cell"]
        print(f"  three bare streams would take {share:.2f} of the CPU of the three hops")
        results |= {"three_hops": rounded(hops), "bare_stream": rounded(bare), "bare_share": round(share, 3)}
    print_report("relay_cells", results, targets)


if __name__ == "__main__":
    main()
