"""`clove chat`."""

import sys

from node.cli import options
from node.cli.output import note, write


def chat(
    model: options.ModelOption = None,
    max_tokens: options.MaxTokensOption = None,
    temperature: options.TemperatureOption = None,
    repetition_penalty: options.RepetitionOption = None,
    seed: options.SeedOption = None,
    system: options.SystemOption = None,
    home: options.HomeOption = None,
) -> None:
    """Talk with a model, a line a turn; Ctrl-D or /exit ends it."""
    from node.cli.conversation import ask_once, chat_body, first_model, turns
    from node.cli.daemon import find_daemon
    from node.errors import NodeError

    daemon = find_daemon(home)
    model = model or first_model(daemon)
    settings = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    conversation = turns(system, "")[:-1]
    if sys.stdin.isatty():
        note(f"{model}; Ctrl-D or /exit ends, /new forgets")
    while (line := _read_line()) is not None:
        if line == "/new":
            conversation = turns(system, "")[:-1]
            continue
        conversation.append({"role": "user", "content": line})
        try:
            answer = ask_once(daemon, chat_body(daemon, model, conversation, settings), write)
        except NodeError as error:
            # A failed turn is taken back: the talk goes on, and the next turn doesn't hold half of this one.
            conversation.pop()
            note(f"\nclove: {error}")
            if not sys.stdin.isatty():
                raise
            continue
        write("\n")
        conversation.append({"role": "assistant", "content": answer.text})


def _read_line() -> str | None:
    """The next line with something in it; None at the end."""
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return None
        if line.strip():
            return line.strip()
