"""`python -m midrib.server` is the command `midrib`."""

from midrib.remote.__main__ import main

main()
