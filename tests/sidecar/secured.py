"""A sidecar that asks who is calling: its certificates, its token, and calls to it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import grpc
import pytest
import trustme
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc

from sidecar.settings import Listen, Tls
from tests.e2e.rpc import TIMEOUT_S, message, order_of

TOKEN = "s3cret-token"  # noqa: S105


class Papers:
    """A certificate authority, and PEM files of what it issued."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate, self.key, self.ca = (folder / name for name in ("server.pem", "server.key", "ca.pem"))
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue_server()

    def issue_server(self, authority: trustme.CA | None = None) -> None:
        """A new server certificate in the place of the old one."""
        issued = (authority or self.authority).issue_cert("localhost")
        self.replace(self.certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.replace(self.key, issued.private_key_pem.bytes())

    @staticmethod
    def replace(path: Path, content: bytes) -> None:
        """The file with other content, and surely newer than before."""
        later = path.stat().st_mtime + 10 if path.exists() else None
        path.write_bytes(content)
        if later is not None:
            os.utime(path, (later, later))

    def listen(self, *, mutual: bool = False) -> Listen:
        tls = Tls(certificate=str(self.certificate), key=str(self.key), client_ca=str(self.ca) if mutual else "")
        return Listen(tcp="localhost:0", tls=tls)

    def trusting(self, *, certified: bool = False) -> grpc.ChannelCredentials:
        """A client's credentials; ``certified`` ones carry a certificate of their own."""
        own = self.authority.issue_cert("client@example.org") if certified else None
        return grpc.ssl_channel_credentials(
            self.authority.cert_pem.bytes(),
            own.private_key_pem.bytes() if own else None,
            own.cert_chain_pems[0].bytes() if own else None,
        )

    def context(self, *, certified: bool = False) -> ssl.SSLContext:
        """`trusting`, for HTTP."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        if certified:
            self.authority.issue_cert("client@example.org").configure_cert(context)
        return context


async def ranked(address: str, credentials: grpc.ChannelCredentials | None, **metadata: str) -> list[int]:
    """The order that a new connection is answered."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    )
    async with channel:
        call = pb_grpc.RerankServiceStub(channel).Rerank(
            message("blue", "red green", budget_ms=1000.0), timeout=TIMEOUT_S, metadata=tuple(metadata.items())
        )
        return order_of(await call)


async def refusal(address: str, credentials: grpc.ChannelCredentials | None, **metadata: str) -> str:
    """The code that a new connection, or a call on it, ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ranked(address, credentials, **metadata)
    return str(caught.value.code().name)


def tokened(folder: Path, content: str = f"{TOKEN}\n") -> Listen:
    path = folder / "token"
    path.write_text(content)
    return Listen(tcp="127.0.0.1:0", token_file=str(path))
