"""`midrib status`: the backbones, tenants and memory of a running server, once or live."""
