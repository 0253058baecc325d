"""Totals that machines count become counters, once each."""

from node.engine.events import EngineLoad
from node.engine.protocol import LoadReport
from node.engine.supervisor import Engine
from node.metrics import Metrics
from node.observer import Observer, _raise_to
from overlay.wire.prompt import ModelId


def value(metrics, line):
    return [row for row in metrics.render().decode().splitlines() if row.startswith(line)]


def test_a_counter_follows_a_total_and_never_goes_back():
    metrics = Metrics(version="0", profile="test")
    for total in (3, 3, 5, 4):
        _raise_to(metrics.cells, {"fwd": total})
    assert value(metrics, 'clove_cells_total{cmd="fwd"}') == ['clove_cells_total{cmd="fwd"} 5.0']


def test_an_engine_s_load_is_shown_under_the_alias_that_its_owner_chose():
    metrics, engine = Metrics(version="0", profile="test"), Engine(())
    load = EngineLoad(
        model_id=ModelId("m-1"),
        alias="small",
        waiting=2,
        reading=1,
        decoding=3,
        queued_tokens=700,
        prefill_token_s=0.001,
        decode_step_s=0.074,
        attended_s=1e-8,
        mixed_tokens=16,
        mixed_step_s=0.1,
        decoding_s=3.0,
        free_slots=4,
        wait_s=1.5,
        answer_s=9.0,
    )
    engine.gate.take(LoadReport(load, taken=6), now=0.0)
    engine.gate.refusals["wait"] = 4
    Observer(metrics, None, None, None, engine)._observe_engine(engine)
    assert value(metrics, "clove_engine_requests") == [
        'clove_engine_requests{model="small",state="waiting"} 2.0',
        'clove_engine_requests{model="small",state="reading"} 1.0',
        'clove_engine_requests{model="small",state="decoding"} 3.0',
    ]
    assert value(metrics, "clove_engine_predicted_wait") == [
        'clove_engine_predicted_wait_seconds{model="small"} 1.5'
    ]
    assert value(metrics, "clove_engine_queued_tokens") == ['clove_engine_queued_tokens{model="small"} 700.0']
    assert 'clove_engine_refusals_total{cause="wait"} 4.0' in value(metrics, "clove_engine_refusals_total")
