"""Opening listeners: addresses, socket files, and what is in the way (DESIGN section 6, invariant 14)."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from sidecar.listeners import ListenError
from sidecar.settings import Listen
from tests.helpers import ScriptedReranker, rig


async def refused(listen: Listen) -> str:
    with pytest.raises(ListenError) as caught:
        async with rig(ScriptedReranker()).served(listen):
            pass
    return str(caught.value)


def at(path: Path) -> Listen:
    return Listen(tcp="", unix=str(path))


async def test_port_zero_picks_one_on_loopback() -> None:
    """Port 0 is told as the port that was opened, and nothing but the host that was named listens."""
    async with rig(ScriptedReranker()).served(Listen(tcp="127.0.0.1:0")) as (address,):
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port)), timeout=5):
            pass
        with socket.socket() as other:
            # Had the server bound every address, this one would be taken.
            other.bind(("127.0.0.2", int(port)))


async def test_both_listeners_at_once(tmp_path: Path) -> None:
    """TCP and Unix socket together; both addresses are told."""
    listen = Listen(tcp="127.0.0.1:0", unix=str(tmp_path / "m.sock"))
    async with rig(ScriptedReranker()).served(listen) as addresses:
        assert len(addresses) == 2
        assert addresses[1] == f"unix:{tmp_path}/m.sock"


async def test_no_listener_at_all() -> None:
    """Nothing to listen on is a mistake that names both settings."""
    assert "listen.tcp and listen.unix are both empty" in await refused(Listen(tcp="", unix=""))


@pytest.mark.parametrize(
    "address", ["50051", ":50051", "localhost", "localhost:http", "127.0.0.1:65536", "127.0.0.1:-1"]
)
async def test_malformed_address(address: str) -> None:
    """What is no host:port is told what one looks like."""
    message = await refused(Listen(tcp=address))
    assert f"listen.tcp is {address!r}; write host:port" in message


async def test_port_in_use() -> None:
    """Invariant: two sidecars never share a port silently. The second one says that it is taken."""
    async with rig(ScriptedReranker()).served(Listen(tcp="127.0.0.1:0")) as (address,):
        message = await refused(Listen(tcp=address))
    assert f"{address} can't be opened; is another process using the port" in message


async def test_address_of_another_machine() -> None:
    """A host that is not this machine's is told the same way."""
    assert "is the host not of this machine" in await refused(Listen(tcp="192.0.2.1:50051"))


async def test_socket_file_is_private(tmp_path: Path) -> None:
    """Invariant 14: owner and group only, in a directory of 0770 that is made where it is missing."""
    before = os.umask(0)  # the most permissive one: nothing may depend on it
    try:
        path = tmp_path / "deep" / "run" / "m.sock"
        async with rig(ScriptedReranker()).served(at(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o770
        assert os.umask(0) == 0  # the process's own umask is as it was
    finally:
        os.umask(before)


async def test_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    """A directory that is there already belongs to somebody else and is not changed."""
    tmp_path.chmod(0o755)
    async with rig(ScriptedReranker()).served(at(tmp_path / "m.sock")):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def test_socket_in_use(tmp_path: Path) -> None:
    """A socket on which somebody listens is never taken away from him."""
    path = tmp_path / "m.sock"
    async with rig(ScriptedReranker()).served(at(path)):
        inode = path.stat().st_ino
        assert f"{path} is in use by another process" in await refused(at(path))
        assert path.stat().st_ino == inode


async def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed sidecar left behind does not stop the next one."""
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    async with rig(ScriptedReranker()).served(at(path)):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_path_that_is_no_socket(tmp_path: Path, kind: str) -> None:
    """A regular file, a folder or a link to a file is never deleted; the message says what is there."""
    path = tmp_path / "m.sock"
    target = tmp_path / "target"
    target.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    assert f"{path} exists and is not a socket; choose another path" in await refused(at(path))
    assert path.exists()
    assert target.read_text() == "precious"


async def test_socket_path_too_long(tmp_path: Path) -> None:
    """Counted in bytes, as the kernel does; the message has the count, the limit and the fix."""
    path = tmp_path / ("ä" * 60 + ".sock")
    message = await refused(at(path))
    assert f"the path has {len(os.fsencode(path))} bytes; at most 107: choose a shorter one" in message


async def test_longest_socket_path(tmp_path: Path) -> None:
    """A path of exactly 107 bytes works."""
    name = "s" * (107 - len(os.fsencode(tmp_path)) - 1)
    async with rig(ScriptedReranker()).served(at(tmp_path / name)) as (address,):
        assert len(address.removeprefix("unix:")) == 107


async def test_directory_that_can_not_be_made(tmp_path: Path) -> None:
    """Where the path leads through a file, the message has the path, the system's reason and the fix."""
    (tmp_path / "file").write_text("")
    message = await refused(at(tmp_path / "file" / "run" / "m.sock"))
    assert message == (f"listen.unix: {tmp_path}/file/run/m.sock: Not a directory; choose a path this user may use")
