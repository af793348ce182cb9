"""For every run of tests, by plain pytest or by Pants: imports survive a change of directory and reach children."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent

# Pants names source roots relative to its sandbox; a spawned worker finds a test's module from the root.
sys.path[:] = dict.fromkeys([str(ROOT / entry) for entry in sys.path] + [str(ROOT)])
if "PEX_EXTRA_SYS_PATH" in os.environ:
    roots = os.environ["PEX_EXTRA_SYS_PATH"].split(os.pathsep)
    os.environ["PEX_EXTRA_SYS_PATH"] = os.pathsep.join(str(ROOT / root) for root in roots)
