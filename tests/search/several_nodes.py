"""A Ray cluster of several raylets on this machine, as a process that obeys its standard input.

Prints its address; then takes one command a line and answers `done`:

    add CPUS       another node
    blind CPUS F   another one, which has a folder F of its own (needs the right to mount)
    kill N         SIGKILL node N's raylet and workers, as when a machine is gone
    drain N S      give node N notice that it goes in S seconds, as a spot instance gets it

Node 0 is the driver's; it has no CPUs for lanes.
"""

from __future__ import annotations

import subprocess
import sys

import psutil
from ray.cluster_utils import Cluster


def drain(address: str, node: str, seconds: str) -> None:
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    when = ["--deadline-remaining-seconds", seconds]
    command = ["ray", "drain-node", "--address", address, "--node-id", node, *when, *why]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def raylets() -> set[psutil.Process]:
    return {process for process in psutil.process_iter() if process.name() == "raylet"}


def blind(address: str, cpus: str, folder: str) -> set[psutil.Process]:
    """The raylet of the new node, which Ray starts as a daemon."""
    before = raylets()
    start = f"ray start --address {address} --num-cpus {cpus} --node-name blind"
    command = f"mount -t tmpfs tmpfs {folder} && exec {start}"
    words = ["unshare", "--mount", "bash", "-c", command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return raylets() - before


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes, daemons = [cluster.head_node], set[psutil.Process]()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add", cpus]:
                nodes.append(cluster.add_node(num_cpus=int(cpus), wait=True))
            case ["blind", cpus, folder]:
                daemons |= blind(cluster.address, cpus, folder)
            case ["kill", n]:
                raylet = psutil.Process(nodes[int(n)].all_processes["raylet"][0].process.pid)
                for process in (*raylet.children(recursive=True), raylet):
                    process.kill()
            case ["drain", n, seconds]:
                drain(cluster.address, nodes[int(n)].node_id, seconds)
        print("done", flush=True)
    for raylet in daemons:
        raylet.kill()
    cluster.shutdown()


if __name__ == "__main__":
    main()
