"""`hosts`: what MLX, torchrun and Open MPI are given of a hostfile, what to run on which host, and
which hosts answer.

    python -m entrypoints.hosts --hostfile hosts.json
"""

from __future__ import annotations

import json

import click

from entrypoints import terminal
from entrypoints.hostfile import Hosts
from entrypoints.options import Command, whole
from tracking import write


def lines(hosts: Hosts, own: int, hostfile: str, silent: list[str], seconds: float) -> list[str]:
    """What each launcher is given, what to run where, and who answers."""
    here = hosts.hosts[own]
    job = f"--hostfile {hostfile}"
    found = [f"hosts {len(hosts.hosts)}, ranks {hosts.ranks}; this machine is {here.name}", ""]
    for i, host in enumerate(hosts.hosts):
        state = "this machine" if i == own else "answers"
        if host.name in silent:
            state = f"DOES NOT ANSWER within {seconds:g} s"
        found.append(f"  {host.name}: {', '.join(host.addresses)}, ranks {host.ranks}, {state}")
    found += [
        "",
        "PyTorch (gloo, nccl): run the same command on every host, host 0 first",
        f"  python -m entrypoints.distributed mnist pytorch {job}",
        *(
            f"  {host.name}: python -m torch.distributed.run {' '.join(hosts.torchrun(i))}"
            for i, host in enumerate(hosts.hosts)
        ),
        "  environment here: " + " ".join(f"{k}={v}" for k, v in hosts.environment(own).items()),
        "",
        f"MLX (ring, jaccl, nccl): run on {hosts.hosts[0].name} only; it starts the others by ssh in "
        "the same folder with the same Python",
        f"  python -m entrypoints.distributed mnist mlx {job}",
        f"  mlx.launch --starting-port {hosts.port} --hostfile with",
        f"  {json.dumps(hosts.mlx(own))}",
        "",
        f"MLX (mpi): run on {hosts.hosts[0].name} only; Open MPI's hostfile",
        *(f"  {line}" for line in hosts.mpi().splitlines()),
    ]
    return found


@click.command(cls=Command, help=__doc__, example="mlflow run . -e hosts -P hostfile=hosts.json")
@click.option(
    "--hostfile",
    default="hosts.json",
    show_default=True,
    help="JSON file, see docs/DISTRIBUTED.md.",
)
@click.option(
    "--seconds", type=whole(1), default=3, show_default=True, help="Seconds to wait for an answer."
)
def main(hostfile: str, seconds: int) -> None:
    hosts = Hosts.read(hostfile)
    own = hosts.own()
    run_id = write.adopt("hosts", "hosts")
    silent = hosts.unreachable(own, seconds)
    text = "\n".join(lines(hosts, own, hostfile, silent, seconds))
    click.echo(text)
    write.attach_text(run_id, text + "\n", "hosts.txt")
    terminal.result(hosts=hosts.hosts, own=own, silent=silent)


if __name__ == "__main__":
    main()
