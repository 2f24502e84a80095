"""A Ray cluster of several raylets on this machine, as a process that obeys its standard input.

Its head has the IP address that it is given, if any. Prints the cluster's address; then takes one
command a line and answers `done`, or what it was asked for:

    add CPUS       another node
    blind CPUS F   another one, which has a folder F of its own (needs the right to mount)
    far CPUS NS IP another one, in the network namespace NS, with that address
    kill N         SIGKILL node N's raylet and workers, as when a machine is gone
    drain N S      give node N notice that it goes in S seconds, as a spot instance gets it
    trainers N     how many Ray Train workers run on node N

Node 0 is the driver's; it has no CPUs for lanes.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
from ray.cluster_utils import Cluster


def drain(address: str, node: str, seconds: str) -> None:
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    when = ["--deadline-remaining-seconds", seconds]
    command = ["ray", "drain-node", "--address", address, "--node-id", node, *when, *why]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def processes(address: str) -> list[psutil.Process]:
    """Ray's own of the cluster at `address`."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"--gcs-address={address}" in (process.info["cmdline"] or ())
    ]


def daemon(*words: str) -> None:
    """Start a node, which Ray makes a daemon."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def blind(address: str, cpus: str, folder: str) -> None:
    start = f"ray start --address {address} --num-cpus {cpus} --node-name blind"
    daemon("unshare", "--mount", "bash", "-c", f"mount -t tmpfs tmpfs {folder} && exec {start}")


def far(address: str, cpus: str, namespace: str, ip: str) -> None:
    start = f"ray start --address {address} --num-cpus {cpus} --node-ip-address {ip}"
    daemon("ip", "netns", "exec", namespace, *start.split())


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:
        return ""


def trainers(node: Any) -> int:
    """How many Ray Train workers run on a node; a drained node's raylet may have left as well."""
    try:
        there = raylet_of(node).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    return sum(title(process).startswith("ray::RayTrainWorker") for process in there)


def main() -> None:
    head = {"node_ip_address": sys.argv[1]} if sys.argv[1:] else {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head})
    nodes, address = [cluster.head_node], cluster.address
    print(address, flush=True)
    for line in sys.stdin:
        answer = "done"
        match line.split():
            case ["add", cpus]:
                nodes.append(cluster.add_node(num_cpus=int(cpus), wait=True))
            case ["blind", cpus, folder]:
                blind(address, cpus, folder)
            case ["far", cpus, namespace, ip]:
                far(address, cpus, namespace, ip)
            case ["kill", n]:
                raylet = raylet_of(nodes[int(n)])
                for process in (*raylet.children(recursive=True), raylet):
                    process.kill()
            case ["trainers", n]:
                answer = str(trainers(nodes[int(n)]))
            case ["drain", n, seconds]:
                drain(address, nodes[int(n)].node_id, seconds)
        print(answer, flush=True)
    cluster.shutdown()
    for process in processes(address):  # daemons, and what outlives a killed raylet
        process.kill()


if __name__ == "__main__":
    main()
