"""Takes part in some rounds of a run, adding STEP to every float of the model; says what travelled.

    python3 live.py http://127.0.0.1:3000/api/v1/runs/default NAME STEP ENCODING ROUNDS

Driven by tests/it/other_clients.rs.
"""

import itertools
import sys

import numpy as np
from fedlearn_client import Client


def moved(model, step):
    return {name: a + np.float32(step) if a.dtype == np.float32 else a for name, a in model.items()}


def main(run, name, step, encoding, rounds):
    client = Client(run, name, samples=100)
    for task in itertools.islice(client.tasks(), rounds):
        model = client.fetch(task["version"])
        header, size = client.fetched
        against = "" if header.base_version is None else f" against {header.base_version}"
        print(f"fetched {task['version']} as {header.encoding}{against}, {size} bytes")
        reply = client.send(task, moved(model, step), encoding, loss=1.5, seed=task["round"])
        print(f"sent {encoding} in round {reply['round']}, {reply['bytes']} bytes")
    client.leave()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
