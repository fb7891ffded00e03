"""The Millirank sidecar: a gRPC process that reorders candidates within a latency budget."""
