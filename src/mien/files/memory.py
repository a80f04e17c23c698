"""Memory of the process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the system (Linux only).

    A network on the CPU frees and takes again the same large tensors in every step; handed back,
    each comes as fresh pages that must be faulted in: a third of the step that
    ``benchmarks/facecycle_step.py`` measures.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_TOP_PAD, 256 << 20)
