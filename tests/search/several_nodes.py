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


def raylets(address: str) -> set[psutil.Process]:
    """Those of the cluster at `address`."""
    return {
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet"
        and f"--gcs-address={address}" in (process.info["cmdline"] or ())
    }


def daemon(address: str, *words: str) -> set[psutil.Process]:
    """The raylet of the node that `words` start; Ray makes it a daemon."""
    before = raylets(address)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return raylets(address) - before


def blind(address: str, cpus: str, folder: str) -> set[psutil.Process]:
    start = f"ray start --address {address} --num-cpus {cpus} --node-name blind"
    command = f"mount -t tmpfs tmpfs {folder} && exec {start}"
    return daemon(address, "unshare", "--mount", "bash", "-c", command)


def far(address: str, cpus: str, namespace: str, ip: str) -> set[psutil.Process]:
    start = f"ray start --address {address} --num-cpus {cpus} --node-ip-address {ip}"
    return daemon(address, "ip", "netns", "exec", namespace, *start.split())


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def trainers(raylet: psutil.Process) -> int:
    """How many Ray Train workers run on a node."""
    titles = ("".join(process.cmdline()[:1]) for process in raylet.children(recursive=True))
    return sum(title.startswith("ray::RayTrainWorker") for title in titles)


def main() -> None:
    head = {"node_ip_address": sys.argv[1]} if sys.argv[1:] else {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head})
    nodes, daemons = [cluster.head_node], set[psutil.Process]()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        answer = "done"
        match line.split():
            case ["add", cpus]:
                nodes.append(cluster.add_node(num_cpus=int(cpus), wait=True))
            case ["blind", cpus, folder]:
                daemons |= blind(cluster.address, cpus, folder)
            case ["far", cpus, namespace, ip]:
                daemons |= far(cluster.address, cpus, namespace, ip)
            case ["kill", n]:
                raylet = raylet_of(nodes[int(n)])
                for process in (*raylet.children(recursive=True), raylet):
                    process.kill()
            case ["trainers", n]:
                answer = str(trainers(raylet_of(nodes[int(n)])))
            case ["drain", n, seconds]:
                drain(cluster.address, nodes[int(n)].node_id, seconds)
        print(answer, flush=True)
    for raylet in daemons:
        raylet.kill()
    cluster.shutdown()


if __name__ == "__main__":
    main()
