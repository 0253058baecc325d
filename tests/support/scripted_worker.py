"""An engine worker without a model: it does what the prompt's text tells it, so that each way to fail can be had.

`say N` gives N tokens; `forever` gives tokens until cancelled; `crash` ends the process; `hang` stops it in its tracks;
`refuse` says that the prompt is too long; `late` that its first token is too far off; `busy N` says that a first token
would take N seconds, then goes on as `forever`; `grow N` takes N MiB of memory and keeps them; `last` gives the request
that was cancelled last.

The first argument says how the start goes: `ok`, `refuse`, `die`, `hang`, `garbage`, or `once=FILE`: ok if the file is
there, and then it is removed, otherwise die.
"""

import signal
import sys
from pathlib import Path

from node.engine.errors import EngineBusyError, ModelDamagedError, PromptTooLongError
from node.engine.events import (
    EngineLoad,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    Replay,
    TokensDecoded,
)
from node.engine.protocol import (
    Beat,
    Cancel,
    LoadFailed,
    LoadReport,
    Ready,
    Refused,
    Submit,
    Told,
    report_error,
)
from node.engine.worker import Pipes
from overlay.wire.prompt import ModelId

CARD = ModelCard(ModelId("m-scripted"), "scripted", "torch-fp32", 100)


def token(request, number):
    return Told(request, TokensDecoded((number,), f"{number} ", (-1.0,), (bytes(18),)))


def finish(request, count):
    return Told(request, GenerationFinished("length", 1, count, 0, 0.0, 0.0, 0.0))


def load(wait_s):
    return EngineLoad(
        model_id=CARD.model_id,
        alias=CARD.alias,
        waiting=0,
        reading=1,
        decoding=0,
        queued_tokens=0,
        prefill_token_s=0.001,
        decode_step_s=0.01,
        attended_s=1e-8,
        mixed_tokens=16,
        mixed_step_s=0.0625,
        decoding_s=0.0,
        free_slots=4,
        wait_s=wait_s,
        answer_s=wait_s,
    )


class ScriptedWorker:
    def __init__(self, pipes):
        self.pipes = pipes
        self.forever = {}
        self.cancelled = 0
        self.grown = []

    def obey(self, command):
        match command:
            case Cancel(request):
                self.cancelled = request
                self.forever.pop(request, None)
            case Submit(request, forced_ids=tuple() as ids):
                figures = (tuple(0.0 for _ in ids), tuple(-1.0 for _ in ids), tuple(bytes(18) for _ in ids))
                replay = Replay(CARD.model_id, "torch-fp32", (1,), bytes(32), "", "length", *figures, ids)
                self.pipes.send(Told(request, replay))
            case Submit(request, prompt=prompt):
                self.act(request, *(prompt.text or "").split())

    def act(self, request, word, number="0"):
        if word == "crash":
            sys.stderr.write("the script says so\n")
            sys.stderr.flush()
            sys.exit(3)
        if word == "hang":
            signal.pause()
        if word == "grow":
            self.grown.append(b"x" * (int(number) << 20))
            number = "1"
        if word == "refuse":
            self.pipes.send(Refused(request, report_error(PromptTooLongError(200, 99))))
            return
        if word == "late":
            self.pipes.send(Refused(request, report_error(EngineBusyError(4.0, 34.0))))
            return
        if word == "busy":
            self.pipes.send(LoadReport(load(float(number)), request))
            word = "forever"
        self.pipes.send(Told(request, PromptPrefilled(1, 0, bytes(32), (1,))))
        if word == "forever":
            self.forever[request] = 0
            return
        numbers = [self.cancelled] if word == "last" else range(int(number))
        for each in numbers:
            self.pipes.send(token(request, each))
        self.pipes.send(finish(request, len(numbers)))

    def run(self):
        while (commands := self.pipes.receive(wait=not self.forever)) is not None:
            for command in commands:
                self.obey(command)
            self.pipes.send(Beat())
            for request, number in list(self.forever.items()):
                if number < 90:
                    self.pipes.send(token(request, number))
                self.forever[request] = number + 1


def start(how, pipes):
    if how.startswith("once="):
        marker = Path(how.removeprefix("once="))
        how = "ok" if marker.exists() else "die"
        marker.unlink(missing_ok=True)
    match how:
        case "die":
            sys.exit("no model today")
        case "hang":
            signal.pause()
        case "refuse":
            pipes.send(LoadFailed(report_error(ModelDamagedError("scripted", "config.json", "is missing"))))
            sys.exit(1)
        case "garbage":
            sys.stdout.buffer.write(b"\xff" * 64)
            sys.stdout.flush()
            signal.pause()
    pipes.send(Ready((CARD,), 0.0))


if __name__ == "__main__":
    the_pipes = Pipes(0, 1)
    the_pipes.receive(wait=True)
    start(sys.argv[1], the_pipes)
    ScriptedWorker(the_pipes).run()
