"""``make bench-clients``: what each client library adds to a bare stub call, and the sidecar to a bare echo."""
