"""Which addresses gRPC can call together."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})$")


def target_of(addresses: Sequence[str]) -> str:
    """What gRPC calls these addresses together.

    Raises ValueError, with the fix, for what is no host:port, and for several addresses that are not all IP addresses
    of one kind: gRPC resolves one name to all its addresses, but not several names.
    """
    hosts = []
    for address in addresses:
        match = _ADDRESS.match(address)
        if match is None or not 0 < int(match[2]) < 65536:
            raise ValueError(f"{address!r} is no host:port; write one such as pool.example:9000 or 10.0.0.7:9000")
        hosts.append(match[1])
    if not hosts:
        raise ValueError("there is no address; name the pool's, such as pool.example:9000")
    if all(host[0] == "[" for host in hosts):
        return "ipv6:" + ",".join(addresses)
    if all(re.fullmatch(r"[\d.]+", host) for host in hosts):
        return "ipv4:" + ",".join(addresses)
    if len(hosts) > 1:
        raise ValueError(
            "several addresses must all be IPv4, or all be IPv6, with their ports; or name one DNS name that "
            "resolves to all of them (in Kubernetes a headless service)"
        )
    return f"dns:///{addresses[0]}"
