"""Connections below a request: accepting, bounds, TLS and the protocol itself."""
