"""Logs: machine-readable off a terminal, and nothing in them that must not be."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog

from node.config import LoggingConfig
from node.logs import REDACTED, configure_logs, get_logger


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restore_logging():
    root = logging.getLogger()
    kept = (list(root.handlers), root.level, logging.lastResort)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in kept[0]:
        root.addHandler(handler)
    root.setLevel(kept[1])
    logging.lastResort = kept[2]
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_off_a_terminal_and_text_on_one():
    piped, terminal = io.StringIO(), Terminal()
    configure_logs(LoggingConfig(), piped)
    get_logger("daemon").info("link opened", links=3)
    (line,) = lines(piped)
    assert (line["event"], line["room"], line["links"], line["level"]) == ("link opened", "daemon", 3, "info")
    configure_logs(LoggingConfig(), terminal)
    get_logger("daemon").info("link opened", links=3)
    assert "link opened" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


@pytest.mark.parametrize(
    "name",
    ["prompt", "messages", "text", "api_key", "key", "token", "nonce", "response_secret", "Authorization"],
)
def test_telling_values_are_redacted_at_any_depth(name):
    stream = io.StringIO()
    configure_logs(LoggingConfig(), stream)
    get_logger("api").warning("seen", **{name: "sesame"})
    get_logger("api").warning("seen", request={name: "sesame"})
    assert "sesame" not in stream.getvalue()
    assert lines(stream)[0][name] == REDACTED


def test_counts_of_telling_things_are_not_redacted():
    stream = io.StringIO()
    configure_logs(LoggingConfig(), stream)
    get_logger("api").info("done", prompt_tokens=5, text_bytes=9)
    assert (lines(stream)[0]["prompt_tokens"], lines(stream)[0]["text_bytes"]) == (5, 9)


def test_raw_bytes_are_cut_short():
    stream = io.StringIO()
    configure_logs(LoggingConfig(), stream)
    get_logger("link").info("closed", peer=bytes(range(32)), peers=[b"abcdefgh"])
    assert lines(stream)[0]["peer"] == "00010203…"
    assert lines(stream)[0]["peers"] == ["61626364…"]


def test_level_holds_for_our_own_and_foreign_loggers():
    stream = io.StringIO()
    configure_logs(LoggingConfig(level="error"), stream)
    get_logger("x").warning("quiet")
    logging.getLogger("foreign").warning("quiet")
    logging.getLogger("foreign").error("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_libp2p_is_tamed_though_its_import_reconfigures_logging():
    code = (
        "import logging; from node.logs import configure_logs; from node.config import LoggingConfig\n"
        "configure_logs(LoggingConfig())\n"
        "import libp2p\n"
        "logging.getLogger('libp2p.host').warning('peer went away')\n"
        "logging.getLogger('libp2p.host').error('first line\\nsecond line')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    (line,) = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    assert line["event"] == "first line"
    assert "peer went away" not in ran.stderr
    assert "second line" not in ran.stderr
