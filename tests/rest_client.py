"""A client of fedlearn that owes it nothing: Python's standard library and a URL.

Takes part in one round: registers, waits to be asked, fetches the model as safetensors, adds STEP to every float, and
sends it back.

    python3 rest_client.py http://127.0.0.1:3000/api/v1/runs/default NAME STEP
"""

import json
import struct
import sys
import urllib.request

SAFETENSORS = "application/vnd.safetensors"


def call(method, url, token=None, body=None, content_type="application/json"):
    headers = {"Accept": f"application/json, {SAFETENSORS}", "Content-Type": content_type}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = response.read()
        if response.headers["Content-Type"] == "application/json":
            return response.status, json.loads(answer)
        return response.status, answer


def moved(model, step):
    """Safetensors: 8 bytes of length, a header of JSON, the values."""
    (length,) = struct.unpack_from("<Q", model)
    header, values = json.loads(model[8 : 8 + length]), bytearray(model[8 + length :])
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = tensor["data_offsets"]
            count = (end - begin) // 4
            floats = struct.unpack_from(f"<{count}f", values, begin)
            struct.pack_into(f"<{count}f", values, begin, *(value + step for value in floats))
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + bytes(values)


def main(run, name, step):
    register = json.dumps({"name": name, "samples": 100, "device": "python"}).encode()
    status, me = call("POST", f"{run}/clients", body=register)
    assert status == 201, status
    client, token = me["client_id"], me["token"]

    task = {"task": "wait"}
    while task["task"] == "wait":
        _, task = call("GET", f"{run}/clients/{client}/task?wait_s=25", token)
    assert task["task"] == "train", task

    _, model = call("GET", f"{run}/models/{task['version']}", token)
    url = f"{run}/rounds/{task['round']}/updates/{client}?samples=100&loss=1.5"
    status, reply = call("PUT", url, token, moved(model, step), SAFETENSORS)
    print(status, json.dumps(reply))


main(sys.argv[1].rstrip("/"), sys.argv[2], float(sys.argv[3]))
