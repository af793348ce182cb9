"""`midrib demo`: a head trained on a served backbone, in one command."""
