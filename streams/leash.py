"""A command line whose process dies with the one that started it; it starts nothing itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Asks Linux to kill this process when the thread that made it is gone, however it went, and becomes the program.
# Done in the child and not as preexec_fn, which may deadlock in a program with threads.
_LEASH = """
import ctypes, os, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def leashed(argv: Sequence[str]) -> list[str]:
    """The command line to start instead of ``argv``: same process id, same exit code.

    Elsewhere than on Linux it only ends what is started after its parent's death.
    """
    return [sys.executable, "-S", "-c", _LEASH, str(os.getpid()), *argv]
