"""`python -m midrib.server` is the command `midrib`."""

from midrib.server.cli import main

main()
