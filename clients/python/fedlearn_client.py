"""A client of fedlearn's coordinator: registers, asks what to do, fetches the model, sends updates.

    client = Client("http://127.0.0.1:3000/api/v1/runs/default", "alice", samples=100)
    client.take_part(lambda model: {name: train(array) for name, array in model.items()})
"""

import http.client
import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request

from fedlearn_wire import MEDIA_TYPE, decode, encode, read_header

WAIT_S = 25  # how long the coordinator keeps a question for work; also what shows it that the client is there
TIMEOUT_S = 60  # of a connection on which nothing comes
PAUSE_S = 3  # of a client that was removed, or whose update was rejected, before it asks again
LONGEST_PAUSE_S = 15  # between two attempts, where the coordinator does not say when to come back
TEMPORARY = (408, 425, 429, 502, 503, 504)  # the same request may succeed later
OUT = ("kicked", "not_admitted", "quarantined")  # until the operator admits the client again
OVER = ("round_closed", *OUT)  # codes after which nothing of this round is accepted, through no fault of the update

log = logging.getLogger("fedlearn")


class Refused(Exception):
    """The coordinator's refusal: `status` of HTTP, `code` and the message in its words."""

    def __init__(self, status, body):
        try:
            refusal = json.loads(body)
            self.code, message = refusal["code"], "; ".join(refusal.get("problems") or []) or refusal["message"]
        except (ValueError, KeyError, TypeError):  # a page of a proxy
            self.code, message = "unknown", "the answer is not from a coordinator but from something in front of it"
            if status == 413:
                message += ", which rejects bodies of this size: raise its limit (of nginx, client_max_body_size)"
        super().__init__(f"{status} {self.code}: {message}")
        self.status = status


class Unreadable(Exception):
    """A successful answer that is not the JSON of a coordinator: most likely another program answers at that address."""

    def __init__(self, url, status, answer, error):
        start = answer[:80].decode(errors="replace")
        super().__init__(
            f"cannot read the answer of {url} ({status}, {error}): check that a coordinator is at that address; "
            f"the answer begins with {start!r}"
        )


class Client:
    """One party of a run. Not for several threads at once."""

    def __init__(self, run, name, samples, device="python", join_secret=None, attempts=None):
        """Registers. `run`: the address of the run; `samples`: number of training images, the update's weight. Set the
        attribute of that name to another number at any time: it is reported before the next update.
        `attempts`: how often to try where the coordinator cannot be reached or has no time, `None`: until it answers."""
        self.run, self.samples, self.attempts = run.rstrip("/"), samples, attempts
        self.reported = samples  # the number that the coordinator knows
        self.token = None
        self.version, self.model = None, None  # the global model that is held
        self.owed = None  # what lossy updates have not told yet
        self.encoding = None  # what the last task asks for
        self.rejected = None  # the round and the reason, where the last update was left out of the model
        self.fetched = None  # header of the last model, and its bytes
        wish = {"name": name, "samples": samples, "device": device}
        if join_secret is not None:
            wish["join_secret"] = join_secret
        body = json.dumps(wish).encode()
        me = self._json("POST", "/clients", body, {"Content-Type": "application/json"})
        self.id, self.token = me["client_id"], me["token"]

    def task(self):
        """What to do now, as the coordinator tells it: `train`, `wait` or `stop` under "task". Waits up to WAIT_S."""
        task = self._json("GET", f"/clients/{self.id}/task?wait_s={WAIT_S}")
        self.encoding = task.get("encoding", self.encoding)
        rejected = task.get("rejected")
        if rejected is not None and rejected != self.rejected:
            log.warning("the update for round %d was left out of the model: %s", rejected["round"], rejected["reason"])
        self.rejected = rejected
        return task

    def tasks(self):
        """Each round's work as it comes, until the coordinator says stop. Waits while the client is not admitted."""
        while True:
            try:
                task = self.task()
            except Refused as refused:
                if refused.code not in OUT:
                    raise
                log.warning("%s; waiting for the operator", refused)
                time.sleep(PAUSE_S)
                continue
            kind = task.get("task")
            if kind == "stop":
                log.warning("the coordinator says stop: %s", task.get("reason"))
                return
            if kind == "train":
                yield task
            elif kind != "wait":
                log.warning("the coordinator is newer and sent the task %r, which this client does not know", kind)
                time.sleep(PAUSE_S)

    def take_part(self, train):
        """Takes part until the coordinator says stop. `train` makes the new arrays by name out of the model's. After a
        refusal that repeating would not change, the round is left alone, and the reason reported."""
        given_up = None
        for task in self.tasks():
            if given_up is None or given_up[0] != task["round"]:
                try:
                    self.send(task, train(self.fetch(task["version"])))
                    continue
                except Refused as refused:
                    log.error("round %d: %s", task["round"], refused)
                    if refused.code in OVER:
                        continue
                    if refused.code == "unauthorized":
                        raise
                    given_up = (task["round"], str(refused))
            self.report_error(*given_up)
            time.sleep(PAUSE_S)

    def report_error(self, number, reason):
        """Reports that this client has failed at the round of that number: it is not waited for, and the operator sees why."""
        body = json.dumps({"state": "error", "round": number, "error": reason}).encode()
        try:
            self._call("PUT", f"/clients/{self.id}/status", body, {"Content-Type": "application/json"})
        except Refused as refused:
            log.warning("the report was refused: %s", refused)

    def fetch(self, version, encoding=None):
        """The global model of that version: float32 and int64 arrays by name. Travels as a difference to the version
        that is held, where the coordinator finds that smaller. Do not change the arrays.

        `encoding`: of the update that will be sent, if not the task's. For f32 the model comes exact, else as bf16.
        """
        exact = (encoding or self.encoding) == "f32"
        if version == self.version and (self.is_exact() or not exact):
            return self.model
        query = "" if self.version is None else f"?base={self.version}"
        accept = f"{MEDIA_TYPE}; encoding=f32" if exact else MEDIA_TYPE
        body = self._call("GET", f"/models/{version}{query}", headers={"Accept": accept})
        self.model = decode(body, self.model, self.version)
        self.version, self.fetched = version, (read_header(body), len(body))
        return self.model

    def is_exact(self):
        """Whether the model that is held is the coordinator's own, not rounded to bf16."""
        return self.fetched is not None and self.fetched[0].encoding == "f32"

    def send(self, task, tensors, encoding=None, loss=None, seed=None):
        """Sends what was trained from the model held; returns the coordinator's reply.

        `encoding`: the one that the task asks for, if none is given. `seed`: of rounding at random, if it must be
        repeatable; then another one for each update.
        """
        encoding = encoding or task["encoding"]
        if encoding == "f32" and not self.is_exact():
            raise ValueError("an update in f32 needs the exact model: fetch it with encoding='f32'")
        body, owed = encode(
            tensors,
            encoding,
            self.model,
            self.version,
            owed=self.owed,
            seed=seed,
            topk_fraction=task["topk_fraction"],
        )
        self._report_samples()
        query = {"samples": self.samples} | ({} if loss is None else {"loss": loss})
        path = f"/rounds/{task['round']}/updates/{self.id}?{urllib.parse.urlencode(query)}"
        reply = self._json("PUT", path, body, {"Content-Type": MEDIA_TYPE})
        self.owed = owed  # it counts from now on: the update has been accepted
        return reply

    def _report_samples(self):
        """Reports the number of training images, where it has changed."""
        samples = self.samples
        if samples != self.reported:
            body = json.dumps({"samples": samples}).encode()
            self._call("PATCH", f"/clients/{self.id}", body, {"Content-Type": "application/json"})
            self.reported = samples

    def leave(self):
        """Says good-bye."""
        self._call("DELETE", f"/clients/{self.id}")

    def _json(self, method, path, body=None, headers=None):
        """The answer, which is an object of JSON."""
        answer, status = self._exchange(method, path, body, headers)
        try:
            value = json.loads(answer)
            if not isinstance(value, dict):
                raise ValueError("not an object")
            return value
        except ValueError as error:
            raise Unreadable(self.run + path, status, answer, error) from None

    def _call(self, method, path, body=None, headers=None):
        return self._exchange(method, path, body, headers)[0]

    def _exchange(self, method, path, body, headers):
        """The answer and its status, once there is one."""
        headers = dict(headers or {})
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.run + path, body, headers, method=method)
        attempt = 0
        while True:
            attempt += 1
            is_last = attempt == self.attempts
            pause = min(0.25 * 2 ** min(attempt, 10), LONGEST_PAUSE_S)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                    return reply.read(), reply.status
            except urllib.error.HTTPError as error:
                failure = Refused(error.code, error.read())
                if error.code not in TEMPORARY or is_last:
                    raise failure from None
                after = error.headers.get("Retry-After", "")
                pause = float(after) if after.isdecimal() else pause
            except (OSError, http.client.HTTPException) as error:  # nobody answers, or half an answer came
                failure = error
                if is_last:
                    raise
            log.warning("%s %s: %s; trying again in %.1f s", method, self.run + path, failure, pause)
            time.sleep(pause)
