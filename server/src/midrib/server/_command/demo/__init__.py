"""Train a head on a served backbone, in one command: `midrib demo`."""
