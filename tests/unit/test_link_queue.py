"""What waits on a link: fair between circuits, bounded, and a farewell always fits."""

from overlay.transport.link_queue import CellQueue
from overlay.wire.limits import LINK_CIRCUIT_QUEUE_CELLS


def cell(number):
    return number.to_bytes(4, "big") * 256


async def test_circuits_take_turns():
    queue = CellQueue()
    for number in range(3):
        queue.put(1, cell(number))
    queue.put(2, cell(9))
    assert await queue.take() == cell(0) + cell(9) + cell(1) + cell(2)


async def test_a_full_circuit_refuses_and_another_does_not():
    queue = CellQueue()
    for number in range(LINK_CIRCUIT_QUEUE_CELLS):
        assert queue.put(1, cell(number))
    assert not queue.put(1, cell(0))
    assert queue.put(2, cell(0))


async def test_the_last_cell_of_a_circuit_replaces_what_waits_and_always_fits():
    queue = CellQueue()
    for number in range(LINK_CIRCUIT_QUEUE_CELLS):
        queue.put(1, cell(number))
    queue.put(2, cell(7))
    assert queue.put(1, cell(99), ends=True)
    assert len(queue) == 2
    assert await queue.take() == cell(99) + cell(7)
    assert len(queue) == 0


async def test_the_last_cell_of_a_circuit_with_nothing_waiting_is_sent():
    queue = CellQueue()
    assert queue.put(5, cell(1), ends=True)
    assert await queue.take() == cell(1)
