"""Loops that numba compiles for the machine at hand: how, on which threads, and where compiled code is kept."""

import hashlib
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import binding, ir
from numba import njit
from numba.core import cgutils
from numba.core import types as numba_types
from numba.extending import intrinsic
from platformdirs import user_cache_path

Floats = np.ndarray[Any, np.dtype[np.float32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
_Kernel = TypeVar("_Kernel", bound=Callable[..., object])

FEW_ROWS = 32
"""With more, what is done row by row is worth the other threads."""

AHEAD = 4096
"""Bytes: how far ahead of its use memory is asked for. The processor by itself asks too late where rows are short."""

# No "nnan" or "ninf": a model that overflows shall show it.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
_SOURCES = ("compiled.py", "cpu_attention.py", "cpu_kernels.py")


def _cache_folder() -> Path:
    """One for each state of the sources: numba compiles again when a loop's own file has changed, but not others."""
    kept = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache_path("clovenet") / "compiled")
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return kept / digest.hexdigest()[:16]


def _prepare(settings: Any) -> bool:  # noqa: ANN401 - numba's own settings have no type
    """Tell numba about vectors, threads and files. Returns whether compiled code can be kept for the next start."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        # LLVM takes half vectors by default, for processors that clock down; whole ones make products twice as fast.
        settings.CPU_NAME = binding.get_host_cpu_name()
        settings.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"
    # OpenMP's threads are PyTorch's own: a second pool would wait for the cores while the first one spins.
    settings.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    settings.CACHE_DIR = str(folder)
    return os.access(folder, os.W_OK)


_CAN_CACHE = _prepare(numba.config)


def use_threads(count: int) -> None:
    """Run what is parallel on so many threads, as far as the process may use them."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


def compiled(*, parallel: bool) -> Callable[[_Kernel], _Kernel]:
    """Compile a function when it is first called. parallel: what it does in `prange` runs on all threads."""
    return cast(
        "Callable[[_Kernel], _Kernel]",
        njit(parallel=parallel, fastmath=_FASTMATH, cache=_CAN_CACHE, nogil=True),
    )


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_typing: Any, array: Any, index: Any) -> Any:  # noqa: ANN401 - numba's types have no type
    """Ask for the line of memory with array[index], which may lie beyond the array's end."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        first = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(first, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag]),
            "llvm.prefetch.p0",
        )
        builder.call(function, [address, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return numba_types.void(array, numba_types.intp), emit


def both(function: Any) -> tuple[Any, Any]:  # noqa: ANN401 - a function of any arguments
    """Compiled for a few rows, on this thread alone, and for many, on all: starting the others takes microseconds."""
    # The second one goes by a name of its own: numba would take its file of compiled code for the first one's.
    copy = types.FunctionType(function.__code__, function.__globals__)
    copy.__qualname__ = f"{function.__qualname__}_on_all_threads"
    return compiled(parallel=False)(function), compiled(parallel=True)(copy)
