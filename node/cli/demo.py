"""`clove demo`."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import HomeOption
from node.cli.output import note, print_facts, short, span, write
from node.cli.testbed import DEFAULT_MODELS, DEFAULT_NODES
from node.errors import ExitCode

if TYPE_CHECKING:
    from node.cli.conversation import Answer
    from node.home import Home
    from node.testbed_record import NetworkRecord
    from verify.verdict import Verdict

_TERMINATED = 143
QUESTION = "Why is the sky blue? Answer in two sentences."


def demo(
    question: Annotated[str, typer.Argument(help="What to ask.")] = QUESTION,
    *,
    nodes: Annotated[int, typer.Option(help="Processes in all.")] = DEFAULT_NODES,
    models: Annotated[int, typer.Option(help="How many of them serve the model.")] = DEFAULT_MODELS,
    model: Annotated[str, typer.Option(help="The model they serve.")] = "smollm2-135m",
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 96,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the network running.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds until the network must be up.")
    ] = 180.0,
    home: HomeOption = None,
) -> None:
    """Start a network here, ask it one question, and tell what happened to it."""
    from node.cli.testbed_start import start_testbed
    from node.clock import monotonic
    from node.home import Home
    from node.testbed import take_down

    signal.signal(signal.SIGTERM, _end_in_order)
    base = Home.locate(home)
    began = monotonic()
    record = start_testbed(base, nodes, models, model, timeout_s, {})
    try:
        relays = sum(node.role == "relay" for node in record.nodes)
        print(
            f"network   {relays} relays, {models} model nodes and 1 client, up in {span(monotonic() - began)};"
        )
        print(
            f"          each is a process of its own, pids {record.nodes[0].pid} to {record.nodes[-1].pid}\n"
        )
        verdict = _ask_and_tell(base, record, question, model, max_tokens)
    finally:
        if not keep:
            take_down(base)
    note(
        "\nthe network is left running: clove ask …, clove testbed down"
        if keep
        else "\nthe network is down again"
    )
    if not verdict.accepted:
        raise typer.Exit(ExitCode.FAILED)


def _ask_and_tell(
    base: "Home", record: "NetworkRecord", question: str, model: str, max_tokens: int
) -> "Verdict":
    from node.cli.conversation import ask_once, chat_body, turns
    from node.cli.daemon import find_daemon

    daemon = find_daemon(base.path)
    print(f"question  {question}\nanswer    ", end="", flush=True)
    body = chat_body(daemon, model, turns(None, question), {"max_tokens": max_tokens})
    answer = ask_once(daemon, body, write)
    kept = answer.kept(daemon)
    print("\n")
    names = {node.node_id: f"{node.name} ({short(node.node_id)})" for node in record.nodes}
    print_facts([*_circuit_facts(kept["account"], names), *_answer_facts(kept, names)])
    return _audit(base, answer, kept)


def _circuit_facts(account: dict[str, Any], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """The circuits that the cloves left by, then those that took over while the answer ran."""
    first, later = account["circuits"][: account["n"]], account["circuits"][account["n"] :]
    used = [relay for relays in first for relay in relays]
    shown = [(f"circuit {i}", _route(relays, names)) for i, relays in enumerate(first, 1)]
    shown.append(("disjoint", "yes" if len(set(used)) == len(used) else "NO: a relay is on two of them"))
    return shown + [("took over", _route(relays, names)) for relays in later]


def _route(relays: Sequence[str], names: Mapping[str, str]) -> str:
    return " > ".join(names.get(relay, short(relay)) for relay in relays)


def _answer_facts(kept: dict[str, Any], names: Mapping[str, str]) -> list[tuple[str, str]]:
    from verify.record_codec import decode_record

    account, record = kept["account"], decode_record(json.dumps(kept["record"]))
    node = names.get(account["node"], short(account["node"]))
    speed = account["completion_tokens"] / max(account["duration_s"], 1e-9)
    generated = f"{account['completion_tokens']} generated, {speed:.0f} a second"
    return [
        ("cloves", f"{account['cloves_sent']} sent, any {account['k']} of {account['n']} are enough"),
        ("answered by", f"{node}: {_who_read(account, names)}, and doesn't know who asked"),
        (
            "tokens",
            f"{generated}; {account['prompt_tokens']} of the prompt, {account['cached_tokens']} cached",
        ),
        ("first token", span(account["ttft_s"]) if account["ttft_s"] is not None else "none came"),
        ("all of it", span(account["duration_s"])),
        (
            "receipt",
            f"{len(record.receipt)} bytes, signed by {names.get(record.node_id.hex(), 'a stranger')}",
        ),
    ]


def _who_read(account: dict[str, Any], names: Mapping[str, str]) -> str:
    """Who could read the prompt: the node asked may have handed it on to the one that answers sooner."""
    entry = account["entry"]
    if entry == account["node"]:
        return "it alone can read the prompt"
    return f"it can read the prompt, as can {names.get(entry, short(entry))}, who was asked and handed it on"


def _audit(base: "Home", answer: "Answer", kept: dict[str, Any]) -> "Verdict":
    from node.cli.verify import verdict_facts, verdict_line
    from node.local_audit import audit_kept

    print("\nThe audit: the same prompt and tokens through the model once more, on this machine.")
    _, verdict = audit_kept(json.dumps(kept["record"]), base.models_dir)
    print_facts([("verdict", verdict_line(verdict)), *verdict_facts(verdict), ("answer", answer.answer_id)])
    return verdict


def _end_in_order(*_: object) -> None:
    """SIGTERM must take the network down as Ctrl-C does."""
    sys.exit(_TERMINATED)
