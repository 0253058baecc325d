"""What can go wrong in `node.engine`.

EngineError
├── PromptRefusedError     the prompt can't be put to this model
│   └── PromptTooLongError it has more tokens than the context holds
├── UnknownModelError      no such model here
├── EngineBusyError        the queue is full, or a first token too far off
├── EngineCrashedError     the worker died, or is just being started again
│   ├── UpstreamDownError      an upstream engine can't be reached, or broke an answer off
│   ├── UpstreamDeniedError    it refuses this node's key
│   └── UpstreamMalformedError what it says is not OpenAI's protocol
└── ModelError             something about a model's files
    ├── ModelDamagedError      a file is missing or not what was stored
    ├── UnsupportedModelError  an architecture, quantisation or tokenizer that we can't run
    ├── MissingBaseError       an adapter's base is not stored
    ├── ModelNeededError       an adapter needs this one, so it must stay
    ├── NoMemoryError          loading it needs more memory than there is
    ├── PullFailedError        a source gave no model
    └── DiskFullError          no room for it
"""

from typing import ClassVar


class EngineError(Exception):
    """Base of every error that the engine raises."""


class PromptRefusedError(EngineError):
    """The prompt can't be put to this model; the message says why. Change the prompt."""


class PromptTooLongError(PromptRefusedError):
    """The prompt has more tokens than the context holds. Shorten it."""

    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {prompt_tokens} tokens; this model takes at most {limit}")
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class UnknownModelError(EngineError):
    """No such model here. `known` lists what there is."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(f"there is no model {name!r} here; there is: {', '.join(known) or 'none'}")
        self.name = name
        self.known = known


class EngineBusyError(EngineError):
    """The queue is full or, with wait_s, the first token would come only then. Ask again after `retry_after_s`."""

    def __init__(self, retry_after_s: float, wait_s: float | None = None) -> None:
        cause = "'s queue is full" if wait_s is None else f" would need {wait_s:.0f} s for a first token"
        super().__init__(f"the engine{cause}; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s
        self.wait_s = wait_s


class EngineCrashedError(EngineError):
    """The worker process died or is starting again. What it was generating is lost; ask again, or elsewhere."""

    subject: ClassVar[str] = "the engine worker is down"

    def __init__(self, cause: str, retry_after_s: float = 5.0) -> None:
        super().__init__(f"{self.subject}: {cause}")
        self.cause = cause
        self.retry_after_s = retry_after_s


class UpstreamDownError(EngineCrashedError):
    """The server can't be reached, does not serve what it should, or broke an answer off. Start or mend it."""

    subject = "the upstream engine is down"


class UpstreamDeniedError(EngineCrashedError):
    """The server refuses this node's key. Set engine.upstream_key to one that it takes."""

    subject = "the upstream engine refuses this node"


class UpstreamMalformedError(EngineCrashedError):
    """What the server says is not OpenAI's protocol, or more than it may be. The rest of the answer is lost."""

    subject = "the upstream engine makes no sense"


class ModelError(EngineError):
    """Base of what can be wrong with a model's files."""


class ModelDamagedError(ModelError):
    """A stored file is missing or damaged. The message names it and the command that mends it."""

    def __init__(self, alias: str, file: str, problem: str) -> None:
        super().__init__(f"model {alias}: {file} {problem}; mend it with: clove models pull {alias}")
        self.alias = alias
        self.file = file
        self.problem = problem


class UnsupportedModelError(ModelError):
    """The model's architecture, quantisation or tokenizer isn't one that this engine runs."""


class MissingBaseError(ModelError):
    """The model is an adapter, and the base that it changes is not stored. The message says how to bring it back."""


class ModelNeededError(ModelError):
    """The model is the base of others that are stored. Remove these first."""


class NoMemoryError(ModelError):
    """The models don't fit into memory. The message says what they need, what there is, and what would fit."""


class PullFailedError(ModelError):
    """The source gave no model: not found, unreachable, or its content isn't what was expected."""


class DiskFullError(ModelError):
    """There is no room for the model. What had been written was removed."""

    def __init__(self, folder: str, needed_bytes: int | None = None, free_bytes: int | None = None) -> None:
        figures = ""
        if needed_bytes is not None and free_bytes is not None:
            figures = f": {needed_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free"
        super().__init__(f"no room in {folder}{figures}; the partial download was removed")
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
