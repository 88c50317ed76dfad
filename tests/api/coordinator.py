"""A coordinator of the built program, with a run that has an open round, for the tests of the API's description."""

import contextlib, json, re, struct, subprocess, tempfile, time, urllib.request

MODEL = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}


def safetensors(value):
    """The run's tensor `w`, full of that value."""
    header = json.dumps(MODEL).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<4f", *[value] * 4)


class Coordinator:
    """`origin`, the admin's token, and the client's id and token."""

    def __init__(self, origin, admin):
        self.origin, self.admin = origin, admin

    def call(self, method, path, body=None, token=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            headers["Authorization"] = "Bearer " + token
        if isinstance(body, (dict, list)):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.origin + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            content = reply.read()
            return json.loads(content) if reply.headers["Content-Type"] == "application/json" else content

    def call_bytes(self, path):
        with urllib.request.urlopen(self.origin + path, timeout=30) as reply:
            return reply.read()

    def open_round(self):
        """A run `tiny` whose first round is open and stays so: `client` and one that is to leave are in it, and one that never
        sends an update. And runs that may be lost, each named like the operation that may take it."""
        run = "/api/v1/runs/tiny"
        for name in ("tiny", "archive", "unarchive", "rename", "delete"):
            self.call("POST", "/api/v1/runs?run=" + name, safetensors(0.0), self.admin, Content_Type="application/vnd.safetensors")
        self.call("PATCH", run, {"max_strikes": 1000}, self.admin, If_Match="*")
        client, leaver, _ = [self.call("POST", run + "/clients", {"name": name, "samples": 100}) for name in ("client", "leaver", "silent")]
        self.client_id, self.client = client["client_id"], client["token"]
        self.leaver_id, self.leaver = leaver["client_id"], leaver["token"]
        self.call("POST", run + "/rounds", None, self.admin)


@contextlib.contextmanager
def coordinator(program):
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "serve", "--listen", "127.0.0.1:0", "--data-dir", folder + "/data"]
        command += ["--dataset", "none", "--channels", "1", "--classes", "10"]
        with open(folder + "/log", "wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            text = ""
            while "Admin token" not in text:
                line = process.stdout.readline().decode()
                if not line:
                    raise SystemExit(f"the coordinator ended: {open(folder + '/log').read()}")
                text += line
            origin = re.search(r"http://127\.0\.0\.1:\d+", text)[0]
            yield Coordinator(origin, re.search(r"Admin token: (\S+)", text)[1])
        finally:
            process.terminate()
            process.wait(timeout=30)
