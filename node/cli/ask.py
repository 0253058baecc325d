"""`clove ask`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli import options
from node.cli.output import note, print_json, short, span, write


def ask(
    prompt: Annotated[str | None, typer.Argument(help="The question; `-` or nothing reads stdin.")] = None,
    *,
    model: options.ModelOption = None,
    max_tokens: options.MaxTokensOption = None,
    temperature: options.TemperatureOption = None,
    top_p: options.TopPOption = None,
    top_k: options.TopKOption = None,
    repetition_penalty: options.RepetitionOption = None,
    min_tokens: options.MinTokensOption = None,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    system: options.SystemOption = None,
    cache: options.CacheOption = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the answer with its receipt to a file, for `clove verify`.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer and nothing else.")] = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Ask the network; the answer streams to stdout."""
    from node.cli.conversation import ask_once, chat_body, turns
    from node.cli.daemon import find_daemon

    text = _read_prompt(prompt)
    daemon = find_daemon(home)
    settings = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "min_tokens": min_tokens,
        "seed": seed,
        "cache": cache,
    }
    body = chat_body(daemon, model, turns(system, text), {**settings, "stop": stop})
    answer = ask_once(daemon, body, (lambda _: None) if as_json else write)
    if save is not None:
        save.write_text(answer.kept_json(daemon), "utf-8")
    if as_json:
        print_json(answer.as_json(daemon))
        return
    write("\n" if sys.stdout.isatty() or not answer.text.endswith("\n") else "")
    if not quiet and sys.stderr.isatty():
        note(_summary(answer.account(daemon), answer.answer_id))


def _summary(account: dict[str, Any] | None, answer_id: str) -> str:
    if account is None:
        return "— no receipt came with this answer: it can't be verified"
    return (
        f"— {short(account['node'])} · {account['completion_tokens']} tokens in {span(account['duration_s'])}"
        f" · {len(account['circuits'])} circuits · check it: clove verify {answer_id}"
    )


def _read_prompt(prompt: str | None) -> str:
    if prompt in (None, "-"):
        if sys.stdin.isatty():
            note("type the question, end with Ctrl-D:")
        prompt = sys.stdin.read()
    text = (prompt or "").strip()
    if not text:
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    return text
