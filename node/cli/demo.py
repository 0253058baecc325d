"""`clove demo`."""

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

    base = Home.locate(home)
    began = monotonic()
    record = start_testbed(base, nodes, models, model, timeout_s, {})
    try:
        relays = sum(node.role == "relay" for node in record.nodes)
        note(f"network up in {span(monotonic() - began)}: {relays} relays, {models} model nodes, 1 client,")
        note(f"each a process of its own (pids {record.nodes[0].pid} to {record.nodes[-1].pid})\n")
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
    note(f"question  {question}")
    note("answer    streaming back through the circuits:\n")
    body = chat_body(daemon, model, turns(None, question), {"max_tokens": max_tokens})
    answer = ask_once(daemon, body, write)
    write("\n\n")
    kept = answer.kept(daemon)
    _tell(kept, record)
    return _audit(base, answer, kept)


def _tell(kept: dict[str, Any], record: "NetworkRecord") -> None:
    names = {node.node_id: node.name for node in record.nodes}

    def named(node_id: str) -> str:
        return f"{names.get(node_id, 'unknown')} ({short(node_id)})"

    account = kept["account"]
    circuits = [
        (f"circuit {i}", " > ".join(named(relay) for relay in relays))
        for i, relays in enumerate(account["circuits"], 1)
    ]
    used = [relay for relays in account["circuits"] for relay in relays]
    tokens = f"{account['completion_tokens']} generated for {account['prompt_tokens']} of the prompt"
    speed = account["completion_tokens"] / max(account["duration_s"], 1e-9)
    print_facts(
        [
            *circuits,
            ("disjoint", "yes" if len(set(used)) == len(used) else "NO: a relay is on two circuits"),
            (
                "cloves",
                f"{account['cloves_sent']} sent, one a circuit; any {account['k']} of {account['n']} will do",
            ),
            (
                "sealed to",
                f"{named(account['node'])}, the only one to read the prompt; it doesn't know who asked",
            ),
            ("tokens", f"{tokens}, {account['cached_tokens']} of them cached; {speed:.0f} a second"),
            ("first token", span(account["ttft_s"]) if account["ttft_s"] is not None else "none"),
            ("whole", span(account["duration_s"])),
            ("receipt", f"{_receipt_bytes(kept)} bytes, signed by {named(account['node'])}"),
        ]
    )


def _receipt_bytes(kept: dict[str, Any]) -> int:
    import json

    from verify.record_codec import decode_record

    return len(decode_record(json.dumps(kept["record"])).receipt)


def _audit(base: "Home", answer: "Answer", kept: dict[str, Any]) -> "Verdict":
    import json

    from node.cli.verify import verdict_facts, verdict_line
    from node.local_audit import audit_kept

    note("\nauditing: the same prompt and tokens through the model once more, on this machine")
    _, verdict = audit_kept(json.dumps(kept["record"]), base.models_dir)
    print_facts([("audit", verdict_line(verdict)), *verdict_facts(verdict), ("answer", answer.answer_id)])
    return verdict
