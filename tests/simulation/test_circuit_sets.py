"""Sets of circuits and those who ask over them: a circuit's end, a model node's new start, at awkward moments."""

import pytest
import trio

from node.keys import KeyRing
from overlay.client.circuit_set import LONGEST_PAUSE_S, CircuitSet
from overlay.wire.descriptor import Descriptor
from tests.support.descriptors import fixed_id
from tests.support.entropy import fixed_entropy
from tests.support.network import Node, a_prompt, answer_to, network
from tests.support.scripted_engine import ScriptedEngine


class Circuit:
    """Closes when it is told to."""

    def __init__(self, pooled) -> None:
        self._pooled = pooled

    def close(self) -> None:
        self._pooled.closed.set()


class Maker:
    """Builds a circuit in no time, of which nothing is real but how it is kept."""

    path_count = 1

    def __init__(self, lives_s: float = 3600.0) -> None:
        self.built: list[float] = []
        self._lives_s = lives_s

    def choose_all(self, _destination):
        return (object(),)

    def choose_one(self, _destination, _others):
        return object()

    async def build(self, circuit) -> None:
        await trio.lowlevel.checkpoint()
        self.built.append(trio.current_time())
        circuit.own = Circuit(circuit)
        circuit.settled.set()
        trio.lowlevel.spawn_system_task(self._end, circuit)

    async def _end(self, circuit) -> None:
        with trio.move_on_after(self._lives_s):
            await circuit.closed.wait()
        circuit.closed.set()

    def note_closed(self, circuit) -> None:
        pass

    def count_failure(self, relays) -> None:
        pass


async def test_circuits_that_end_as_soon_as_they_are_open_are_not_rebuilt_without_end(
    autojump_clock, nursery
):
    maker = Maker(lives_s=0.01)
    nursery.start_soon(CircuitSet(maker, fixed_id(0)).serve)
    await trio.sleep(60.0)
    assert len(maker.built) < 15
    assert maker.built[-1] - maker.built[-2] == pytest.approx(LONGEST_PAUSE_S, abs=0.1)
    nursery.cancel_scope.cancel()


async def test_a_circuit_that_lived_is_replaced_at_once(autojump_clock, nursery):
    maker = Maker(lives_s=20.0)
    nursery.start_soon(CircuitSet(maker, fixed_id(0)).serve)
    await trio.sleep(50.0)
    assert maker.built == pytest.approx([0.0, 20.0, 40.0], abs=0.1)
    nursery.cancel_scope.cancel()


async def test_a_circuit_that_one_request_has_closed_is_not_given_to_the_next(autojump_clock, nursery):
    maker = Maker()
    circuits = CircuitSet(maker, fixed_id(0))
    given = []

    def spoil(_slot, circuit):
        given.append(circuit)
        if circuit is given[0]:
            circuit.own.close()

    circuits.watchers |= {spoil, lambda *given_too: spoil(*given_too)}
    nursery.start_soon(circuits.serve)
    await trio.sleep(1.0)
    assert given.count(given[0]) == 1
    assert len(given) == 3
    nursery.cancel_scope.cancel()


async def test_a_circuit_that_carries_an_answer_does_not_replace_itself(autojump_clock):
    async with network() as net:
        circuits, prompt = await net.circuits(), a_prompt()

        def tell_again(told):
            if told.tokens == 10:
                told.answering._adopt(2, circuits[2])

        told = await net.ask(prompt, during=tell_again)
        assert told.text == answer_to(prompt)
        assert told.answering.paths_replaced == 0


async def test_a_prompt_is_sealed_to_the_key_that_its_model_node_has_when_the_circuits_are_open(
    autojump_clock,
):
    async with network() as net:
        circuits = net.circuit_set()
        wait_open = circuits.wait_open

        def known() -> Descriptor:
            return net["c"].switch.directory.find(net["m0"].node_id)

        async def wait_while_it_starts_again(timeout_s):
            before = known()
            await net.kill(net["m0"].node_id)
            again = net.nodes["m0"] = Node("m0", net, engine=ScriptedEngine())
            again._ring = KeyRing(entropy=fixed_entropy("another start"))
            await net.nursery.start(again.serve, net["r0"])
            with trio.fail_after(30):
                while known().sealing_keys == before.sealing_keys:  # noqa: ASYNC110 - the directory tells nobody
                    await trio.sleep(0.1)
            return await wait_open(timeout_s)

        circuits.wait_open = wait_while_it_starts_again
        prompt = a_prompt()
        assert (await net.ask(prompt)).text == answer_to(prompt)
