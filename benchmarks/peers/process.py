"""A peer that runs in a process of its own, with its own Python and libraries, and is asked for figures one by one."""

import json
import subprocess
from pathlib import Path


class PeerProcess:
    """A script of this folder, which reads questions and writes figures, a line of JSON each."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        command = (python, str(Path(__file__).parent / script), *arguments)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **question: object) -> float:
        """One measurement. Raises RuntimeError where the peer has ended."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a peer without pipes")
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{process.args} ended with {process.wait()}")
        return float(json.loads(answer))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
