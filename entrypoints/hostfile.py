"""The hostfile of a job: one file, written for every launcher in its own format.

{"hosts": [{"name": "mac-1", "address": "192.168.2.1"},
           {"name": "mac-2", "address": "192.168.2.2", "ssh": "me@mac-2.local"}], "port": 29500}
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown

PORT = 29500
_LARGEST, _MOST_HOSTS = untrusted.MIB, 4096
ABOUT = "see docs/DISTRIBUTED.md"
# ssh and discard. Never a port of the job: MLX's ring takes any connection for its neighbour. Two,
# because a firewall may drop what it does not let in.
PROBED = (22, 9)
_WORD = re.compile(r"[\w@:%+.\[\]][\w@:%+.\[\]-]{0,255}")


Device = str | tuple[str, ...] | None  # RDMA device of the cable to a host, of each cable, none


@dataclass(frozen=True)
class Host:
    """One machine of a job."""

    name: str
    addresses: tuple[str, ...]  # IPv4: one a cable for MLX's ring; everyone else takes the first
    ranks: int
    ssh: str  # what ssh is given: a name, an address, user@name
    rdma: tuple[Device, ...] = ()  # for each host, how to reach it


@dataclass(frozen=True)
class Hosts:
    """The machines of a job, in the order of their ranks."""

    hosts: tuple[Host, ...]
    port: int = PORT  # torchrun's store; MLX's ring listens on this and the ports after it

    @classmethod
    def read(cls, path: str | Path) -> Hosts:
        """The hostfile at `path`; one line for whatever is wrong with it."""
        try:
            text = untrusted.read_text(Path(path), _LARGEST, "a JSON file")
        except InputError as error:
            raise InputError(f"hostfile {error}; {ABOUT}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, path: str) -> Hosts:
        """`read` of a file's text."""
        try:
            return cls(*_file(untrusted.parse_json(text, "the file")))
        except InputError as error:
            raise InputError(f"hostfile {path}: {error}; {ABOUT}") from error

    @property
    def ranks(self) -> int:
        """Ranks of the whole job."""
        return sum(host.ranks for host in self.hosts)

    def own(self, addresses: Iterable[str] | None = None) -> int:
        """Index of the host that this machine is: the one with an address of its interfaces."""
        here = set(_interfaces() if addresses is None else addresses)
        found = [i for i, host in enumerate(self.hosts) if here & set(host.addresses)]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(a for host in self.hosts for a in host.addresses)
        if found:
            names = " and ".join(self.hosts[i].name for i in found)
            raise InputError(
                f"this machine has the addresses of {names}; expected those of one host; "
                f"give each machine one entry with the ranks it runs"
            )
        raise InputError(
            f"no host of the hostfile is this machine: it has {', '.join(sorted(here))}; expected "
            f"one of {listed}; correct the hostfile or bring the interface up"
        )

    def mlx(self, own: int) -> dict[str, Any]:
        """MLX's hostfile: an entry per rank; the own host is started without ssh."""
        return {
            "hosts": [
                {
                    "ssh": "127.0.0.1" if i == own else host.ssh,
                    "ips": list(host.addresses),
                    "rdma": [list(d) if isinstance(d, tuple) else d for d in host.rdma],
                }
                for i, host in enumerate(self.hosts)
                for _ in range(host.ranks)
            ]
        }

    def torchrun(self, own: int, max_restarts: int = 0, seconds: int = 60) -> list[str]:
        """Arguments of `python -m torch.distributed.run` on host `own`. The hosts wait for each
        other for `seconds`; without a number, torchrun waits for ten minutes."""
        return [
            f"--nnodes={len(self.hosts)}",
            f"--node-rank={own}",
            f"--nproc-per-node={self.hosts[own].ranks}",
            f"--master-addr={self.hosts[0].addresses[0]}",
            f"--master-port={self.port}",
            f"--max-restarts={max_restarts}",
            f"--rdzv-conf=timeout={seconds}",
        ]

    def mpi(self) -> str:
        """Open MPI's hostfile."""
        return "".join(f"{host.ssh} slots={host.ranks}\n" for host in self.hosts)

    def environment(self, own: int) -> dict[str, str]:
        """Environment of the ranks on host `own`: the interface that has its first address. Left
        alone, gloo takes the one that the host's own name resolves to, often the loopback."""
        address = self.hosts[own].addresses[0]
        name = _interfaces().get(address)
        if name is None:
            raise InputError(
                f"no interface of this machine has {address}; expected the address of "
                f"{self.hosts[own].name}; bring the interface up or correct the hostfile"
            )
        # NCCL matches by prefix unless told not to: en1 would also be en10.
        return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}

    def unreachable(self, own: int, seconds: float) -> list[str]:
        """Names of the other hosts of which an address does not answer within `seconds`."""
        others = [host for i, host in enumerate(self.hosts) if i != own]
        tries = [(a, port) for host in others for a in host.addresses for port in PROBED]
        with ThreadPoolExecutor(max_workers=max(1, len(tries))) as pool:
            done = list(pool.map(lambda place: _answers(place, seconds), tries))
        there = {address for (address, _), yes in zip(tries, done, strict=True) if yes}
        return [host.name for host in others if not there.issuperset(host.addresses)]


def _answers(place: tuple[str, int], seconds: float) -> bool:
    """Whether something comes back: a machine that refuses the connection is there."""
    try:
        socket.create_connection(place, timeout=seconds).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # no route, or silence
        return False
    return True


def _interfaces() -> dict[str, str]:
    """IPv4 address -> name of the interface of this machine that has it."""
    return {
        entry.address: name
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    }


def _file(data: Any) -> tuple[tuple[Host, ...], int]:
    """Hosts and port of a hostfile's JSON."""
    _keys(data, {"hosts", "port"}, "the file")
    entries = data.get("hosts")
    if not isinstance(entries, list) or not entries:
        raise InputError('no hosts; expected {"hosts": [{"address": "192.168.2.1"}, ...]}')
    if len(entries) > _MOST_HOSTS:
        raise InputError(f"{len(entries):,} hosts; expected at most {_MOST_HOSTS:,}")
    hosts = tuple(_host(entry, index, len(entries)) for index, entry in enumerate(entries))
    _together(hosts)
    port = data.get("port", PORT)
    # One port per rank and address from here on, as MLX numbers them.
    last = 65535 - sum(host.ranks * len(host.addresses) for host in hosts)
    if not _whole(port) or not 1024 <= port <= last:
        raise InputError(
            f"port is {shown(repr(port))}; expected a whole number from 1024 to {last}"
        )
    return hosts, port


def _host(entry: Any, index: int, count: int) -> Host:
    where = f"host {index}"
    _keys(entry, {"name", "address", "ranks", "ssh", "rdma"}, where)
    given = entry.get("address")
    addresses = tuple(_address(a, where) for a in (given if isinstance(given, list) else [given]))
    if not addresses:
        raise InputError(f"{where}: no address; expected an IPv4 address")
    ranks = entry.get("ranks", 1)
    if not _whole(ranks) or ranks < 1:
        raise InputError(f"{where}: ranks is {shown(repr(ranks))}; expected a whole number above 0")
    name = _word(entry.get("name", addresses[0]), f"{where}: name")
    ssh = _word(entry.get("ssh", addresses[0]), f"{where}: ssh")
    return Host(name, addresses, ranks, ssh, _rdma(entry.get("rdma", []), index, count, ranks))


def _rdma(given: Any, index: int, count: int, ranks: int) -> tuple[Device, ...]:
    where = f"host {index}: rdma"
    if given == []:
        return ()
    if not isinstance(given, list) or len(given) != count:
        raise InputError(
            f"{where} is {shown(repr(given))}; expected a list of {count}, a device per host, null for itself"
        )
    if given[index] is not None:
        raise InputError(
            f"{where} has {shown(repr(given[index]))} for the host itself; expected null there"
        )
    if ranks > 1:
        raise InputError(f"{where} goes with 1 rank per host, not {ranks}; set ranks to 1")
    return tuple(_device(device, where) for device in given)


def _device(given: Any, where: str) -> Device:
    if isinstance(given, list) and given:
        return tuple(_word(device, where) for device in given)
    return None if given is None else _word(given, where)


def _together(hosts: tuple[Host, ...]) -> None:
    """What must hold between hosts."""
    for what, values in (
        ("address", [a for host in hosts for a in host.addresses]),
        ("name", [host.name for host in hosts]),
    ):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise InputError(
                f"{what} {shown(min(twice))} stands there twice; expected one entry a host; write ranks: 2 "
                f"for two ranks on one host"
            )
    if len({len(host.addresses) for host in hosts}) > 1:
        raise InputError(
            "some hosts have more addresses than others; expected as many each, one per cable"
        )
    if len({bool(host.rdma) for host in hosts}) > 1:
        raise InputError("some hosts have rdma and some have none; expected all or none")
    local = [a for host in hosts for a in host.addresses if ipaddress.ip_address(a).is_loopback]
    if local and len(hosts) > 1:
        raise InputError(
            f"address {local[0]} is no other host's to reach; expected one of a network"
        )


def _keys(data: Any, known: set[str], where: str) -> None:
    if not isinstance(data, dict):
        raise InputError(f"{where} is {shown(repr(data))}; expected an object with {sorted(known)}")
    if unknown := sorted(set(data) - known):
        raise InputError(
            f"{where}: unknown key {shown(repr(unknown[0]))}; choose from {sorted(known)}"
        )


def _address(value: Any, where: str) -> str:
    try:
        address = ipaddress.IPv4Address(value if isinstance(value, str) else "")
    except ipaddress.AddressValueError as error:
        # MLX's ring opens IPv4 sockets and splits address and port at the first colon.
        raise InputError(
            f"{where}: address is {shown(repr(value))}; expected an IPv4 address; names go into 'ssh'"
        ) from error
    if address.is_unspecified or address.is_multicast:
        raise InputError(f"{where}: address {value} is no host's; expected an interface's own")
    return str(address)


def _word(value: Any, where: str) -> str:
    # It goes into command lines: a leading dash would be an option, other signs a shell's own.
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise InputError(f"{where} is {shown(repr(value))}; expected one word")
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
