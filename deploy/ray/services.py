"""The gRPC services that Ray's proxy is to serve: `grpc_servicer_functions: [deploy.ray.services.add_to_server]`.

Messages stay bytes on their way through the proxy, as in a sidecar: nobody but the service reads them.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2
from millirank.v1 import rerank_service_pb2

# Without Health.Watch: Ray counts an open stream as a request under way when it scales, limits and replaces ingresses.
# Who watches gets UNIMPLEMENTED, and by the protocol takes the server for healthy.
_METHODS = {
    rerank_service_pb2.DESCRIPTOR.services_by_name["RerankService"].full_name: ("Rerank", "ExplainRoute"),
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name: ("Check",),
}


def add_to_server(servicer: object, server: grpc.Server) -> None:
    """Registers the methods by name, as generated `add_*_to_server` functions do; Ray puts its own handlers behind
    them."""
    for service, methods in _METHODS.items():
        handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
