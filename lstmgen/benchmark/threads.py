"""How many threads the numerical libraries of this process may use.

Most read an environment variable once, when they are loaded, so that this comes first. What is
loaded already is told by threadpoolctl, where that is installed.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from ..errors import LstmgenError

# OpenMP; the BLAS libraries; and XLA, which makes a pool of as many threads as NPROC says.
_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NPROC",
)  # fmt: skip


def limit(threads: int) -> None:
    """Let numerical libraries use that many threads, and no more."""
    if threads < 1:
        raise LstmgenError(f"a number of threads is 1 or more, not {threads}")
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)
    controls = _threadpoolctl()
    if controls is not None:
        controls.threadpool_limits(limits=threads)


def pools() -> list[str]:
    """The thread pools and BLAS kernels that are in use, in words; empty if nobody can tell."""
    controls = _threadpoolctl()
    if controls is None:
        return []
    found = []
    for pool in controls.threadpool_info():
        name = " ".join(str(pool.get(k) or "") for k in ("internal_api", "version", "architecture"))
        found.append(f"{' '.join(name.split())}, {pool['num_threads']} threads")
    return sorted(set(found))


def _threadpoolctl() -> Any:
    try:
        return importlib.import_module("threadpoolctl")
    except ImportError:
        return None
