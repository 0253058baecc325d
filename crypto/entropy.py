"""The type of an entropy source: `os.urandom` in the daemon, a fixed stream in vectors and simulations."""

from collections.abc import Callable

Entropy = Callable[[int], bytes]
"""Returns that many unpredictable bytes."""
