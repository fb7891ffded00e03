"""A pool of models on Ray Serve: the sidecar's own rerankers, scheduled, scaled and healed by somebody else's cluster.

`app.build` is what a Serve configuration names. Every heavy reranker is a deployment of its own (`replica`), and one
more, the ingress, serves `RerankService` through Ray's gRPC proxy (`ingress`).
"""
