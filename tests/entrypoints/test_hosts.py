"""One hostfile for every launcher: read or refused in one line, and understood by MLX and torchrun."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx._distributed_utils import launch as mlx_launch
from mlx._distributed_utils.common import Hostfile
from torch.distributed.run import config_from_args, get_args_parser

from entrypoints import launch
from entrypoints.distributed import distributed_options
from entrypoints.hostfile import Host, Hosts
from measurement.errors import InputError
from tests.entrypoints.namespaces import ADDRESSES, TwoHosts

MACS = {
    "hosts": [
        {
            "name": "mac-1",
            "address": ["192.168.0.1", "192.168.0.5"],
            "rdma": [None, ["en2", "en3"]],
        },
        {
            "name": "mac-2",
            "address": ["192.168.0.2", "192.168.0.6"],
            "ssh": "me@mac-2.local",
            "rdma": ["rdma_en2", None],
        },
    ],
    "port": 30000,
}
ONE, TWO = {"address": "10.0.0.1"}, {"address": "10.0.0.2"}
MISTAKES = [
    ({}, "no hosts"),
    ([], "expected an object"),
    ({"hosts": []}, "no hosts"),
    ({"hosts": {"a": 1}}, "no hosts"),
    ({"hosts": ["10.0.0.1"]}, "host 0 is '10.0.0.1'; expected an object"),
    ({"hosts": [ONE], "prot": 1}, "the file: unknown key 'prot'; choose from ['hosts', 'port']"),
    ({"hosts": [ONE, {**TWO, "rank": 2}]}, "host 1: unknown key 'rank'"),
    ({"hosts": [{"name": "a"}]}, "host 0: address is None; expected an IPv4 address"),
    ({"hosts": [{"address": "mac-1.local"}]}, "address is 'mac-1.local'; expected an IPv4"),
    ({"hosts": [{"address": "fe80::1"}]}, "address is 'fe80::1'; expected an IPv4"),
    ({"hosts": [{"address": "10.0.0.256"}]}, "'10.0.0.256'"),
    ({"hosts": [{"address": "0.0.0.0"}]}, "0.0.0.0 is no host's"),
    ({"hosts": [{"address": "224.0.0.1"}]}, "224.0.0.1 is no host's"),
    ({"hosts": [{"address": 167772161}]}, "address is 167772161"),
    ({"hosts": [{"address": []}]}, "host 0: no address"),
    ({"hosts": [{"address": ["10.0.0.1", None]}]}, "address is None"),
    *(
        (
            {"hosts": [{**ONE, "ranks": ranks}]},
            f"ranks is {ranks!r}; expected a whole number above 0",
        )
        for ranks in (0, -1, 1.5, "2", True, None)
    ),
    *(
        ({"hosts": [ONE, {**TWO, key: word}]}, f"host 1: {key} is {word!r}; expected one word")
        for key in ("name", "ssh")
        for word in ("", "a b", 3, None, "-oProxyCommand=x")
    ),
    ({"hosts": [ONE, ONE]}, "address 10.0.0.1 stands there twice"),
    ({"hosts": [{"address": ["10.0.0.1", "10.0.0.1"]}]}, "address 10.0.0.1 stands there twice"),
    ({"hosts": [{**ONE, "name": "a"}, {**TWO, "name": "a"}]}, "name a stands there twice"),
    ({"hosts": [ONE, {"address": ["10.0.0.2", "10.0.0.3"]}]}, "expected as many each"),
    ({"hosts": [ONE, {"address": "127.0.0.1"}]}, "127.0.0.1 is no other host's to reach"),
    ({"hosts": [{**ONE, "rdma": [None]}, TWO]}, "host 0: rdma is [None]; expected a list of 2"),
    ({"hosts": [{**ONE, "rdma": "rdma_en2"}, TWO]}, "expected a list of 2"),
    ({"hosts": [{**ONE, "rdma": ["en2", None]}, TWO]}, "'en2' for the host itself; expected null"),
    ({"hosts": [{**ONE, "rdma": [None, 2]}, TWO]}, "rdma is 2; expected one word"),
    ({"hosts": [{**ONE, "rdma": [None, []]}, TWO]}, "rdma is []; expected one word"),
    ({"hosts": [{**ONE, "rdma": [None, "en2"]}, TWO]}, "some hosts have rdma and some have none"),
    (
        {"hosts": [{**ONE, "ranks": 2, "rdma": [None, "en2"]}, TWO]},
        "goes with 1 rank per host, not 2",
    ),
    *(
        ({"hosts": [ONE], "port": port}, f"port is {port!r}; expected a whole number from 1024 to")
        for port in (0, 80, 65535, 29500.0, "29500", True)
    ),
]


def written(folder: Path, data: Any) -> Path:
    path = folder / "hosts.json"
    path.write_text(json.dumps(data))
    return path


def two(**more: Any) -> Hosts:
    """Two hosts of 3 and 1 ranks."""
    first = Host("one", ("10.0.0.1",), 3, "10.0.0.1")
    return Hosts((first, Host("two", ("10.0.0.2",), 1, "me@two")), **more)


def test_a_hostfile_is_read(tmp_path: Path) -> None:
    hosts = Hosts.read(written(tmp_path, MACS))
    assert hosts == Hosts(
        (
            Host("mac-1", ("192.168.0.1", "192.168.0.5"), 1, "192.168.0.1", (None, ("en2", "en3"))),
            Host("mac-2", ("192.168.0.2", "192.168.0.6"), 1, "me@mac-2.local", ("rdma_en2", None)),
        ),
        30000,
    )
    assert Hosts.read(written(tmp_path, {"hosts": [{**ONE, "ranks": 2}, TWO]})) == Hosts(
        (
            Host("10.0.0.1", ("10.0.0.1",), 2, "10.0.0.1"),
            Host("10.0.0.2", ("10.0.0.2",), 1, "10.0.0.2"),
        )
    )
    assert two().ranks == 4


@pytest.mark.parametrize(("data", "line"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_a_mistake_is_one_line(data: Any, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        Hosts.read(written(tmp_path, data))
    text = str(refused.value)
    assert line in text and "\n" not in text
    assert text.startswith(f"hostfile {tmp_path / 'hosts.json'}: ")
    assert text.endswith("; see docs/DISTRIBUTED.md")


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Hosts.read(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be read"):
        Hosts.read(tmp_path)
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        Hosts.read(path)
    path.write_text('{\n"hosts": [,]}')
    with pytest.raises(InputError, match="no JSON, line 2"):
        Hosts.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["hosts", "port", "name", "address", "ranks", "ssh", "rdma"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(data=JSON | st.fixed_dictionaries({"hosts": st.lists(JSON, min_size=1, max_size=3)}))
def test_whatever_stands_in_the_file_is_read_or_refused(data: Any, tmp_path: Path) -> None:
    try:
        Hosts.read(written(tmp_path, data))
    except InputError as refused:
        assert "\n" not in str(refused)


@st.composite
def hostfiles(draw: st.DrawFn) -> dict[str, Any]:
    """A right hostfile of 1 to 4 hosts."""
    count, cables = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    private = st.integers(1, 2**24 - 2).map(lambda n: f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    addresses = draw(
        st.lists(private, min_size=count * cables, max_size=count * cables, unique=True)
    )
    rdma = draw(st.booleans())
    hosts = []
    for i in range(count):
        own = addresses[i * cables : (i + 1) * cables]
        host: dict[str, Any] = {"address": own if cables > 1 or draw(st.booleans()) else own[0]}
        if draw(st.booleans()):
            host["name"] = f"host-{i}"
        if draw(st.booleans()):
            host["ssh"] = f"user@machine-{i}.local"
        if rdma:
            devices = ["rdma_en2", ["rdma_en2", "rdma_en3"]]
            host["rdma"] = [
                None if j == i else draw(st.sampled_from(devices)) for j in range(count)
            ]
        else:
            host["ranks"] = draw(st.integers(1, 4))
        hosts.append(host)
    return {"hosts": hosts, "port": draw(st.integers(1024, 65000))}


@given(data=hostfiles(), own=st.integers(0, 3))
def test_mlx_reads_what_is_written_for_it(data: dict[str, Any], own: int, tmp_path: Path) -> None:
    hosts = Hosts.read(written(tmp_path, data))
    own %= len(hosts.hosts)
    path = tmp_path / "mlx.json"
    path.write_text(json.dumps(hosts.mlx(own)))
    entries = Hostfile.from_file(path).hosts
    assert len(entries) == hosts.ranks
    place = [i for i, host in enumerate(hosts.hosts) for _ in range(host.ranks)]
    for entry, i in zip(entries, place, strict=True):
        assert tuple(entry.ips) == hosts.hosts[i].addresses
        assert entry.ssh_hostname == ("127.0.0.1" if i == own else hosts.hosts[i].ssh)
        assert entry.rdma == data["hosts"][i].get("rdma", [])
    started = what_mlx_starts("ring", path, hosts.port)
    ring = json.loads(started[0]["MLX_HOSTFILE"] or "[]")
    if hosts.ranks > 1:
        assert [[a.split(":")[0] for a in node] for node in ring] == [e.ips for e in entries]
        ports = [int(address.split(":")[1]) for node in ring for address in node]
        assert ports == list(range(hosts.port, hosts.port + len(ports))) and ports[-1] < 65536
    if hosts.hosts[0].rdma:
        what_mlx_starts("jaccl", path, hosts.port)


def what_mlx_starts(backend: str, path: Path, port: int) -> list[dict[str, str]]:
    """The files that mlx.launch would give each rank; SystemExit where it refuses the hostfile."""
    parser = argparse.ArgumentParser()
    asked = argparse.Namespace(
        backend=backend, starting_port=port, connections_per_ip=1, env=[], verbose=False, cwd=None
    )
    asked.python = None
    seen: list[dict[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mlx_launch,
            "_launch_with_io",
            lambda _, ranks, __: seen.extend(args[4] for args, _ in ranks),
        )
        start = {"ring": mlx_launch.launch_ring, "jaccl": mlx_launch.launch_jaccl}[backend]
        start(parser, Hostfile.from_file(path).hosts, asked, ["true"])
    return seen


@given(data=hostfiles(), restarts=st.integers(0, 9), seconds=st.integers(1, 900))
def test_torchrun_reads_what_is_written_for_it(
    data: dict[str, Any], restarts: int, seconds: int, tmp_path: Path
) -> None:
    hosts = Hosts.read(written(tmp_path, data))
    for own, host in enumerate(hosts.hosts):
        words = [*hosts.torchrun(own, restarts, seconds), "--module", "entrypoints.rank", "{}"]
        config, _, rest = config_from_args(get_args_parser().parse_args(words))
        assert (config.min_nodes, config.max_nodes) == (len(hosts.hosts),) * 2
        assert config.nproc_per_node == host.ranks
        assert config.max_restarts == restarts
        assert config.rdzv_backend == "static"
        assert config.rdzv_endpoint == f"{hosts.hosts[0].addresses[0]}:{hosts.port}"
        assert config.rdzv_configs["rank"] == own
        assert int(config.rdzv_configs["timeout"]) == seconds
        assert rest[-2:] == ["entrypoints.rank", "{}"]


def test_open_mpi_has_a_line_a_host() -> None:
    assert two().mpi() == "10.0.0.1 slots=3\nme@two slots=1\n"


def test_a_machine_finds_itself_by_its_addresses() -> None:
    assert two().own(["127.0.0.1", "10.0.0.2"]) == 1
    with pytest.raises(
        InputError, match=r"no host of the hostfile is this machine: it has 10.9.9.9"
    ):
        two().own(["10.9.9.9"])
    with pytest.raises(InputError, match="addresses of one and two; expected those of one host"):
        two().own(["10.0.0.1", "10.0.0.2"])
    here = Hosts((Host("here", ("127.0.0.1",), 2, "127.0.0.1"),))
    assert here.own() == 0
    loopback = next(
        name
        for name, entries in psutil.net_if_addrs().items()
        if any(entry.address == "127.0.0.1" for entry in entries)
    )
    assert here.environment(0) == {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": f"={loopback}",
    }
    with pytest.raises(InputError, match=r"no interface of this machine has 10\.0\.0\.1"):
        Hosts((Host("x", ("10.0.0.1",), 1, "x"),)).environment(0)


def test_the_command_is_one_line_or_a_page(
    run: Callable[..., tuple[int, str, str]], store: Path, tmp_path: Path
) -> None:
    code, out, err = run("hosts")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("Error: hostfile hosts.json cannot be read")
    written(tmp_path, {"hosts": [{"address": "127.0.0.1", "ranks": 2}]})
    code, out, err = run("hosts")
    assert (code, err) == (0, "")
    assert "hosts 1, ranks 2; this machine is 127.0.0.1" in out


def test_the_page_states_the_seconds_that_the_code_has(project: Path) -> None:
    text = (project / "docs" / "DISTRIBUTED.md").read_text()
    start, end = f"{launch.START_SECONDS:.0f} s", f"{launch.END_SECONDS:.0f} s"
    assert f"| {start}, and up to {end} more |" in text
    assert f"does not answer within {launch.ANSWER_SECONDS:.0f} s" in text
    timeout = next(o for o in distributed_options("mnist", "mlx") if o.name == "timeout_seconds")
    assert f"`timeout_seconds` ({timeout.default:.0f}) and {end}" in text
    assert f"| {Hosts(()).port} |" in text


def test_hosts_that_do_not_answer_are_named(two_hosts: TwoHosts) -> None:
    """Each test host finds itself and its interface, and misses the other once the cable is out."""
    path = str(two_hosts.hostfile(ranks=2))
    command = [sys.executable, "-m", "entrypoints.hosts", "--seconds", "1", "--hostfile", path]
    for own in (0, 1):
        done = two_hosts.run(own, command)
        assert done.returncode == 0, done.stderr
        assert f"hosts 2, ranks 4; this machine is host-{own}" in done.stdout
        assert f"host-{1 - own}: {ADDRESSES[1 - own]}, ranks 2, answers" in done.stdout
        assert f"GLOO_SOCKET_IFNAME={two_hosts.interfaces[own]}" in done.stdout
    two_hosts.cut()
    done = two_hosts.run(0, command)
    assert f"host-1: {ADDRESSES[1]}, ranks 2, DOES NOT ANSWER within 1 s" in done.stdout
