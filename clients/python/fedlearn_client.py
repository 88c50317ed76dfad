"""A client of fedlearn's coordinator: registers, asks what to do, fetches the model, sends updates.

    client = Client("http://127.0.0.1:3000/api/v1/runs/default", "alice", samples=100)
    for task in client.tasks():
        model = client.fetch(task["version"])
        client.send(task, {name: train(array) for name, array in model.items()})
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request

from fedlearn_wire import MEDIA_TYPE, decode, encode, read_header

WAIT_S = 25  # how long the coordinator keeps a question for work; also what shows it that the client is there
TIMEOUT_S = 60  # of a connection on which nothing comes
ATTEMPTS = 5
COME_BACK = (425, 429, 503)  # refusals that pass: the coordinator says when to ask again


class Refused(Exception):
    """The coordinator's refusal: `status` of HTTP, `code` and the message in its words."""

    def __init__(self, status, body):
        try:
            told = json.loads(body)
            self.code, message = told["code"], told["message"]
        except (ValueError, KeyError, TypeError):  # not from the coordinator: a proxy's page
            self.code, message = "unknown", body[:200].decode(errors="replace")
        super().__init__(f"{status} {self.code}: {message}")
        self.status = status


class Client:
    """One party of a run. Not for several threads at once."""

    def __init__(self, run, name, samples, device="python", join_secret=None):
        """Registers. `run`: the address of the run; `samples`: number of training images, the update's weight."""
        self.run, self.samples = run.rstrip("/"), samples
        self.token = None
        self.version, self.model = None, None  # the global model that is held
        self.owed = None  # what lossy updates have not told yet
        self.fetched = None  # header of the last model, and its bytes
        wish = {"name": name, "samples": samples, "device": device}
        if join_secret is not None:
            wish["join_secret"] = join_secret
        body = json.dumps(wish).encode()
        me = json.loads(self._call("POST", "/clients", body, {"Content-Type": "application/json"}))
        self.id, self.token = me["client_id"], me["token"]

    def task(self):
        """What to do now, as the coordinator tells it: `train`, `wait` or `stop` under "task". Waits up to WAIT_S."""
        return json.loads(self._call("GET", f"/clients/{self.id}/task?wait_s={WAIT_S}"))

    def tasks(self):
        """Each round's work as it comes, until the coordinator says stop."""
        while (task := self.task())["task"] != "stop":
            if task["task"] == "train":
                yield task

    def fetch(self, version):
        """The global model of that version: float32 and int64 arrays by name. Travels as a difference to the version
        that is held, where the coordinator finds that smaller. Do not change the arrays."""
        if version == self.version:
            return self.model
        query = "" if self.version is None else f"?base={self.version}"
        body = self._call("GET", f"/models/{version}{query}", headers={"Accept": MEDIA_TYPE})
        self.model = decode(body, self.model, self.version)
        self.version, self.fetched = version, (read_header(body), len(body))
        return self.model

    def send(self, task, tensors, encoding=None, loss=None, seed=None):
        """Sends what was trained from the model held; returns the coordinator's reply.

        `encoding`: the one that the task asks for, if none is given. `seed`: of rounding at random.
        """
        body, owed = encode(
            tensors,
            encoding or task["encoding"],
            self.model,
            self.version,
            owed=self.owed,
            seed=seed,
            topk_fraction=task["topk_fraction"],
        )
        query = {"samples": self.samples} | ({} if loss is None else {"loss": loss})
        path = f"/rounds/{task['round']}/updates/{self.id}?{urllib.parse.urlencode(query)}"
        reply = json.loads(self._call("PUT", path, body, {"Content-Type": MEDIA_TYPE}))
        self.owed = owed  # it counts from now on: the update has been accepted
        return reply

    def leave(self):
        """Says good-bye."""
        self._call("DELETE", f"/clients/{self.id}")

    def _call(self, method, path, body=None, headers=None):
        headers = dict(headers or {})
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.run + path, body, headers, method=method)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                    return reply.read()
            except urllib.error.HTTPError as error:
                refused = Refused(error.code, error.read())
                if error.code not in COME_BACK or attempt == ATTEMPTS:
                    raise refused from None
                time.sleep(float(error.headers.get("Retry-After", 1)))
