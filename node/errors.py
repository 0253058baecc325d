"""What can go wrong in `node`, and the exit code that a command ends with for it.

NodeError                the daemon or a command can't do what was asked          exit 1
├── UsageError           the command line or the configuration is wrong           exit 2
│   └── ConfigError      a key of the configuration is unknown or out of range
├── HomeError            the home folder can't be used
│   ├── KeyFileError     a key file is missing, damaged or readable by others
│   └── AlreadyRunningError  another daemon holds this home
├── StoreError           the state file can't be used
├── AddressInUseError    the API's port is taken
├── NoDaemonError        no daemon answers for this home                          exit 3
└── DegradedError        the daemon runs, but not everything that was asked of it exit 4
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its caller; documented in docs/operations.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    DEGRADED = 4


class NodeError(Exception):
    """Something a person can act on. `remedy` is the command or step that mends it, where there is one."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(NodeError):
    """The command was called in a way that it doesn't understand."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A key of the configuration is unknown or out of range; the message names it and what is allowed."""


class HomeError(NodeError):
    """The home folder can't be read or written. Point CLOVE_HOME elsewhere or mend its permissions."""


class KeyFileError(HomeError):
    """A key file is missing, damaged, or readable by others. The message says which and how to mend it."""


class AlreadyRunningError(HomeError):
    """Another daemon uses this home. Stop it with `clove shutdown`, or give this one a home of its own."""


class StoreError(NodeError):
    """The state file is damaged or from a newer version. Identity and keys are not in it."""


class AddressInUseError(NodeError):
    """Something else listens on the address asked for."""


class NoDaemonError(NodeError):
    """No daemon answers for this home. Start one with `clove up` or `clove testbed up`."""

    exit_code = ExitCode.NO_DAEMON


class DegradedError(NodeError):
    """The daemon runs, but can't do everything that it was asked to; the message says what is missing."""

    exit_code = ExitCode.DEGRADED
