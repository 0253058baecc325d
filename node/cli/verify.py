"""`clove verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import print_facts, print_json, short
from node.errors import ExitCode

if TYPE_CHECKING:
    from verify.verdict import Verdict


def verify(
    answer: Annotated[
        str, typer.Argument(help="An answer's id, `last`, or a file written by `clove ask --save`.")
    ] = "last",
    *,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an answer against its receipt with a fresh pass of the reference model; 1 when it is rejected.

    4 when it is unproven: all that can be checked is right, but an upstream engine's answer can't be replayed.
    """
    from node.home import Home
    from node.local_audit import audit_kept

    record, verdict = audit_kept(_read(answer, home), Home.locate(home).models_dir)
    if as_json:
        print_json({"node_id": record.node_id.hex(), "model_id": record.model_id, **verdict_json(verdict)})
    else:
        print(verdict_line(verdict))
        whose = [("node", short(record.node_id.hex())), ("model", record.model_id)]
        print_facts([*whose, *verdict_facts(verdict), *part_facts(verdict)])
    if not verdict.accepted:
        raise typer.Exit(ExitCode.FAILED if verdict.reasons else ExitCode.DEGRADED)


def verdict_json(verdict: "Verdict") -> dict[str, Any]:
    """For programs."""
    return {
        "accepted": verdict.accepted,
        "outcome": verdict.outcome.value,
        "reasons": [{"finding": reason.finding.value, "detail": reason.detail} for reason in verdict.reasons],
        "figures": asdict(verdict.figures) if verdict.figures else None,
        "notes": list(verdict.notes),
        "parts": [
            {**asdict(part), "node_id": part.node_id.hex() if part.node_id else None}
            for part in verdict.parts
        ],
    }


def verdict_line(verdict: "Verdict") -> str:
    """The verdict in a line."""
    if verdict.reasons:
        return "rejected: " + "; ".join(str(reason) for reason in verdict.reasons)
    if not verdict.replayable:
        return "unproven: the node signed this very prompt and text; what gave the text can't be replayed"
    return "accepted: the answer is what this model, sampler and nonce produce"


def verdict_facts(verdict: "Verdict") -> list[tuple[str, str]]:
    """The figures that the verdict rests on, beside their bars."""
    facts = []
    if (figures := verdict.figures) is not None:
        facts = [
            ("tokens", f"{figures.tokens}, {figures.exceedances} with a margin over {figures.epsilon:g}"),
            ("margin", f"largest {figures.largest_margin:.3g}"),
            ("e-process", f"10^{figures.log10_e:.2f}, rejects at 10^{figures.reject_log10_e:.2f}"),
            (
                "fingerprint",
                f"distance {figures.fingerprint_distance:.2g}, bar {figures.fingerprint_bar:.2g}",
            ),
            ("log-probs", f"gap {figures.logprob_gap:.2g}, bar {figures.logprob_bar:.2g}"),
        ]
    return [*facts, *(("note", text) for text in verdict.notes)]


def part_facts(verdict: "Verdict") -> list[tuple[str, str]]:
    """Who signed which tokens, where several nodes gave the answer."""
    facts = []
    for part in verdict.parts:
        node = short(part.node_id.hex()) if part.node_id else "an earlier node"
        whose = f"signed by {node}" if part.signed_by else f"signed by nobody, from {node}"
        how = f" ({part.signed_by})" if part.signed_by else ""
        wrong = f", {part.exceedances} with a margin over the bar" if part.exceedances else ""
        facts.append(("part", f"tokens {part.first} to {part.last} {whose}{how}{wrong}"))
    return facts


def _read(answer: str, home: Path | None) -> str:
    """A file where there is one of that name; else what the daemon kept."""
    from node.cli.daemon import find_daemon
    from node.errors import NodeError

    file = Path(answer)
    if file.is_file():
        try:
            return file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NodeError(f"{file} can't be read: {error}") from None
    kept = find_daemon(home).get(f"/api/v1/answers/{answer}")
    return json.dumps(kept["record"], ensure_ascii=False)
