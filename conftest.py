"""For every run of tests, by plain pytest or by Pants: imports survive a change of directory and reach children."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent

# Pants names source roots relative to its sandbox; a spawned worker finds a test's module from the root.
sys.path[:] = dict.fromkeys([str(ROOT / entry) for entry in sys.path] + [str(ROOT)])
# So does the environment in which it starts children: by the first name for a PEX, by the second within one.
for name in {"PEX_EXTRA_SYS_PATH", "__PEX_EXTRA_SYS_PATH__"} & set(os.environ):
    roots = os.environ[name].split(os.pathsep)
    os.environ[name] = os.pathsep.join(str(ROOT / root) for root in roots)
