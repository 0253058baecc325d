"""What a relay costs its owner: memory and idle CPU of each relay process of a local network, and how soon it is up.

    python -m benchmarks.relay_process [--seconds 30] [--quick]

Resident memory is each process's own view (RSS); processes forked from one launcher share pages, so one relay is
started alone as well, as `clove up` does. Idle means links, heartbeats and directory rounds of the network, no prompt.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Target, print_report
from node.home import Home
from node.testbed import bring_up, take_down
from node.testbed_plan import lay_out

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[1]


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def memory_mb(pid: int) -> float:
    """Resident memory."""
    line = next(
        row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def start_alone(home: Home, bootstrap: str) -> tuple[subprocess.Popen[bytes], float]:
    """One relay as a contributor starts it, and the seconds until it has published itself."""
    command = [
        sys.executable,
        "-m",
        "node",
        "up",
        "--home",
        str(home.path),
        "--role",
        "relay",
        "--bootstrap",
        bootstrap,
    ]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--api-port", "0", "--set", "network.allow_private=true"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while home.daemon() is None:
        if process.poll() is not None:
            raise RuntimeError("the relay ended")
        time.sleep(0.02)
    return process, time.perf_counter() - start


def help_s(runs: int) -> float:
    """How long `clove --help` takes, median."""
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "node", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
        )
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--quick", action="store_true", help="a few seconds only")
    options = parser.parse_args()
    seconds = 5 if options.quick else options.seconds
    os.environ.setdefault("CLOVE_MODELS", str(ROOT / ".models"))
    shown = help_s(5)
    with tempfile.TemporaryDirectory() as folder:
        base = Home(Path(folder) / "testbed")
        start = time.perf_counter()
        plan = lay_out(base, nodes=19, models=2, model="smollm2-135m")
        record = bring_up(base, plan, timeout_s=180, show=lambda _: None)
        up_s = time.perf_counter() - start
        relays = [node.pid for node in record.nodes if node.role == "relay"]
        alone, alone_s = start_alone(Home(Path(folder) / "alone"), record.nodes[0].address)
        try:
            time.sleep(5)  # what starting costs is over
            before = {pid: cpu_s(pid) for pid in [*relays, alone.pid]}
            time.sleep(seconds)
            idle = {pid: (cpu_s(pid) - used) / seconds * 100 for pid, used in before.items()}
            memory = {pid: memory_mb(pid) for pid in idle}
        finally:
            alone.terminate()
            alone.wait()
            take_down(base)
    results = {
        "testbed_up_s": round(up_s, 1),
        "alone_up_s": round(alone_s, 2),
        "alone_memory_mb": round(memory[alone.pid], 1),
        "alone_idle_cpu_percent": round(idle[alone.pid], 2),
        "testbed_relay_memory_mb": round(statistics.median(memory[pid] for pid in relays), 1),
        "testbed_relay_idle_cpu_percent": round(statistics.median(idle[pid] for pid in relays), 2),
        "help_s": round(shown, 3),
    }
    for name, value in results.items():
        print(f"{name:32} {value}")
    targets = [
        Target("memory of a relay started alone, MB", results["alone_memory_mb"], 150, "lower"),
        Target(
            "largest memory of a testbed relay, MB",
            round(max(memory[pid] for pid in relays), 1),
            150,
            "lower",
        ),
        Target("idle CPU of a relay started alone, %", results["alone_idle_cpu_percent"], 2, "lower"),
        Target(
            "idle CPU of a testbed relay, median, %", results["testbed_relay_idle_cpu_percent"], 2, "lower"
        ),
        Target("clove --help, s", results["help_s"], 0.3, "lower"),
    ]
    print_report("relay_process", results, targets)


if __name__ == "__main__":
    main()
