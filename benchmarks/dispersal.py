"""What it costs to split a message into cloves and to get it back, beside the primitives that it can't do without.

`make bench-dispersal`, or `python -m benchmarks.dispersal [--quick]`. CPU time, the best of several rounds,
so that other work on the machine counts little.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from hashlib import sha256
from time import process_time_ns

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crypto.dispersal import recover, split
from crypto.erasure import fragment_length, generator_row
from crypto.gf256 import invert_matrix, multiples

SIZES = (64, 1024, 16 * 1024, 1024 * 1024)
TARGET_BYTES, TARGET_US = 16 * 1024, 150.0
MID = bytes(16)


def best_us(action: Callable[[], object], *, calls: int, rounds: int) -> float:
    """CPU microseconds of one call, in the best round."""
    best = float("inf")
    for _ in range(rounds):
        start = process_time_ns()
        for _ in range(calls):
            action()
        best = min(best, (process_time_ns() - start) / calls)
    return best / 1000


def measure(size: int, k: int, n: int, *, rounds: int) -> dict[str, float]:
    """Split, recover and their primitives for one size of message."""
    calls = max(1, min(400, 4_000_000 // max(size, 2000)))
    message = os.urandom(size)
    cloves = split(message, k, n, mid=MID, entropy=os.urandom)

    def us(action: Callable[[], object]) -> float:
        return best_us(action, calls=calls, rounds=rounds)

    kept = {"first k": cloves[:k], "one lost": cloves[1 : k + 1], "last k": cloves[n - k :]}
    recovered = {name: us(lambda some=some: recover(some)) for name, some in kept.items()}
    return {
        "split_us": us(lambda: split(message, k, n, mid=MID, entropy=os.urandom)),
        "recover_first_k_us": recovered["first k"],
        "recover_one_lost_us": recovered["one lost"],
        "recover_last_k_us": recovered["last k"],
        "primitives_us": sum_of_primitives(us, message, k, n),
    }


def sum_of_primitives(us: Callable[[Callable[[], object]], float], message: bytes, k: int, n: int) -> float:
    """What one split and one recovery from the last k cloves can't do without, each call timed on its own.

    The AEAD both ways, the hash both times, entropy, and of the code each distinct product (`bytes.translate`), each
    buffer seen as an array, each XOR and each sum turned back into bytes. No call of ours, no slicing, no shares.
    """
    key, nonce = ChaCha20Poly1305(os.urandom(32)), bytes(12)
    ciphertext = key.encrypt(nonce, message, b"")
    fragment = os.urandom(fragment_length(len(ciphertext), k))
    array, table = np.frombuffer(fragment, np.uint8), multiples(3)
    chosen = range(n - k, n)
    inverse = invert_matrix(generator_row(k, index) for index in chosen)
    rows_made = [generator_row(k, index) for index in range(k, n)]
    rows_rebuilt = [inverse[index] for index in range(k) if index not in chosen]
    products = conversions = sums = 0
    for rows in (rows_made, rows_rebuilt):
        terms = {(index, factor) for row in rows for index, factor in enumerate(row) if factor}
        conversions += len(terms)
        products += sum(factor != 1 for _, factor in terms)
        sums += sum(sum(map(bool, row)) - 1 for row in rows)
    return (
        us(lambda: key.encrypt(nonce, message, b""))
        + us(lambda: key.decrypt(nonce, ciphertext, b""))
        + 2 * us(lambda: sha256(ciphertext).digest())
        + us(lambda: os.urandom(32 * k))
        + products * us(lambda: fragment.translate(table))
        + conversions * us(lambda: np.frombuffer(fragment, np.uint8))
        + sums * us(lambda: array ^ array)
        + (len(rows_made) + len(rows_rebuilt)) * us(array.tobytes)
    )


def ratio(row: dict[str, float]) -> float:
    """Split and recovery in the worst case over the sum of their primitives."""
    return (row["split_us"] + row["recover_last_k_us"]) / row["primitives_us"]


def print_table(results: dict[str, dict[str, float]]) -> None:
    """The table for people."""
    print(
        f"{'us of CPU':>9} {'split':>9} {'recover':>9} {'one lost':>9} {'last k':>9} {'primitives':>11} {'ratio':>6}"
    )
    for size, row in results.items():
        print(
            f"{size:>9} {row['split_us']:9.1f} {row['recover_first_k_us']:9.1f} {row['recover_one_lost_us']:9.1f} "
            f"{row['recover_last_k_us']:9.1f} {row['primitives_us']:11.1f} {ratio(row):6.2f}"
        )


def describe_machine() -> str:
    """Processor and Python, no name."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"


def find_commit() -> str:
    """The commit measured, or `unknown` outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measures, prints a table and then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", type=int, default=2)
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="bytes")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    options = parser.parse_args()
    rounds = 3 if options.quick else 15
    results = {str(size): measure(size, options.k, options.n, rounds=rounds) for size in options.sizes}
    print_table(results)
    targets = []
    if (row := results.get(str(TARGET_BYTES))) is not None:
        value = row["split_us"] + row["recover_last_k_us"]
        targets.append(
            {
                "what": "split + recover (worst case: the last k cloves), 16 KB, us of CPU",
                "value": round(value, 1),
                "bar": TARGET_US,
                "better": "lower",
                "met": value < TARGET_US,
            }
        )
    for target in targets:
        print(
            f"{'met' if target['met'] else 'MISSED'}: {target['what']}: {target['value']} (bar {target['bar']})"
        )
    rounded = {size: {name: round(us, 1) for name, us in row.items()} for size, row in results.items()}
    report = {
        "name": "dispersal",
        "commit": find_commit(),
        "machine": describe_machine(),
        "results": {"k": options.k, "n": options.n, "sizes": rounded},
        "targets": targets,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
