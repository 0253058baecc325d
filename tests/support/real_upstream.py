"""A real OpenAI-compatible server, `transformers serve`, over the stored default model: nothing of ours but a name."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from node.testbed_plan import _free_ports
from tests.support.testbed import MODELS

ALIAS = "smollm2-135m"
NAME = "clove/smollm2-135m"
_REVISION = "0" * 40
_UP_S = 120


def lay_out_hub(folder: Path) -> None:
    """The stored model as a hub's cache has it: the server lists what it finds in one."""
    repository = folder / "hub" / f"models--{NAME.replace('/', '--')}"
    snapshot = repository / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(_REVISION)
    for file in (MODELS / ALIAS).iterdir():
        if file.name not in ("config.json", "manifest.json"):
            (snapshot / file.name).symlink_to(file.resolve())
    config = json.loads((MODELS / ALIAS / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))


@dataclass
class RealUpstream:
    """The server; it can be killed and started again on its port."""

    folder: Path
    port: int = field(default_factory=lambda: _free_ports(1)[0])
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = Path(sys.executable).with_name("transformers")
        arguments = ("serve", NAME, "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu")
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [str(command), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HOME": str(self.folder), "HF_HUB_OFFLINE": "1"},
        )
        log.close()
        deadline = time.monotonic() + _UP_S  # noqa: TID251 -- another process's time
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline  # noqa: TID251

    def kill(self) -> None:
        """SIGKILL, as when it runs out of memory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/models", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            time.sleep(0.2)  # two cores: the server needs them
            return False


@contextmanager
def real_upstream(folder: Path):
    """One that runs, and is gone afterwards."""
    lay_out_hub(folder)
    server = RealUpstream(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
