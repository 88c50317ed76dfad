"""The client against a coordinator of a few lines, which keeps what it is asked and answers from a list."""

import http.server
import json
import socket
import threading
import unittest
import unittest.mock

import numpy as np
from fedlearn_client import Client, Refused, Unreadable
from fedlearn_wire import MEDIA_TYPE, decode, encode, read_header
from same import Same

ZERO = {"w": np.zeros((2, 3), np.float32)}
TASK = {"task": "train", "round": 1, "version": 0, "encoding": "q8", "topk_fraction": 0.5}
REPLY = {"round": 1, "bytes": 0}


class Coordinator(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, self.headers, body))
        status, answer = self.server.answers.pop(0)
        answer = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if status in (425, 429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *args):
        pass


class ClientTest(Same):
    def client(self, *answers, attempts=None):
        """One that has registered with a coordinator that will give these answers."""
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Coordinator)
        self.server.asked = []
        self.server.answers = [(201, {"client_id": "c1", "token": "t1"}), *answers]
        serving = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(serving.join)
        self.addCleanup(self.server.shutdown)
        return Client(f"http://127.0.0.1:{self.server.server_port}/run/", "alice", 100, join_secret="sesame", attempts=attempts)

    def asked(self, index):
        return self.server.asked[index]

    def test_it_registers_and_shows_its_token_from_then_on(self):
        list(self.client((200, {"task": "wait"}), (200, {"task": "stop"})).tasks())
        method, path, headers, body = self.asked(0)
        self.assertEqual((method, path, headers["Authorization"]), ("POST", "/run/clients", None))
        wish = {"name": "alice", "samples": 100, "device": "python", "join_secret": "sesame"}
        self.assertEqual(json.loads(body), wish)
        for index in [1, 2]:
            method, path, headers, _ = self.asked(index)
            self.assertEqual((method, path), ("GET", "/run/clients/c1/task?wait_s=25"))
            self.assertEqual(headers["Authorization"], "Bearer t1")

    def test_it_fetches_the_next_model_as_a_difference_to_the_one_it_holds(self):
        one = {"w": np.ones((2, 3), np.float32)}
        delta = encode(one, "bf16-delta", ZERO, 0)[0]
        client = self.client((200, encode(ZERO, "bf16")[0]), (200, delta))
        self.assert_same(client.fetch(0), ZERO)
        self.assert_same(client.fetch(1), one)
        self.assert_same(client.fetch(1), one)  # held: nothing is asked
        self.assertEqual([path for _, path, _, _ in self.server.asked[1:]], ["/run/models/0", "/run/models/1?base=0"])
        self.assertEqual(self.asked(1)[2]["Accept"], MEDIA_TYPE)
        self.assertEqual(client.fetched, (read_header(delta), len(delta)))

    def test_an_update_in_f32_is_trained_from_the_exact_model(self):
        exact = (200, encode(ZERO, "f32")[0])
        client = self.client((200, TASK | {"encoding": "f32"}), exact, (200, encode(ZERO, "bf16")[0]), exact, (202, REPLY))
        client.task()
        client.fetch(0)
        self.assertEqual(self.asked(2)[2]["Accept"], f"{MEDIA_TYPE}; encoding=f32")
        client.fetch(1, encoding="q8")
        self.assertEqual(self.asked(3)[2]["Accept"], MEDIA_TYPE)
        with self.assertRaisesRegex(ValueError, "fetch it with encoding='f32'"):
            client.send(TASK, ZERO, encoding="f32")
        client.fetch(1, encoding="f32")
        client.send(TASK, ZERO, encoding="f32")
        self.assertEqual(read_header(self.asked(5)[3]).encoding, "f32")

    def test_it_sends_what_the_task_asks_for_and_remembers_what_it_owes(self):
        client = self.client((200, encode(ZERO, "bf16")[0]), (202, REPLY), (202, REPLY))
        client.fetch(0)
        update = {"w": np.float32([[1, 0.3, 0.3], [0.3, 0.3, 0.3]])}
        client.send(TASK, update, loss=0.5, seed=1)
        method, path, headers, body = self.asked(2)
        self.assertEqual((method, path), ("PUT", "/run/rounds/1/updates/c1?samples=100&loss=0.5"))
        self.assertEqual(headers["Content-Type"], MEDIA_TYPE)
        self.assertEqual((read_header(body).encoding, read_header(body).base_version), ("q8", 0))
        self.assertTrue(client.owed["w"].any())
        np.testing.assert_allclose(decode(body, ZERO, 0)["w"] + client.owed["w"], update["w"], atol=1e-6)
        # And adds that to what it sends next, in the encoding that the caller wishes
        owed = client.owed["w"]
        client.send(TASK, ZERO, encoding="topk", seed=2)
        body = self.asked(3)[3]
        self.assertEqual(read_header(body).encoding, "topk")
        np.testing.assert_allclose(decode(body, ZERO, 0)["w"] + client.owed["w"], owed, atol=1e-6)

    def test_a_number_of_samples_that_changes_is_reported_once_before_the_next_update(self):
        client = self.client((200, encode(ZERO, "bf16")[0]), (204, b""), (202, REPLY), (202, REPLY))
        client.fetch(0)
        client.samples = 150
        client.send(TASK, ZERO)
        client.send(TASK, ZERO)
        method, path, headers, body = self.asked(2)
        self.assertEqual((method, path, headers["Authorization"]), ("PATCH", "/run/clients/c1", "Bearer t1"))
        self.assertEqual(json.loads(body), {"samples": 150})
        sent = ("PUT", "/run/rounds/1/updates/c1?samples=150")
        self.assertEqual([(method, path) for method, path, _, _ in self.server.asked[3:]], [sent, sent])

    def test_a_number_of_samples_that_is_rejected_is_reported_again_with_the_next_update(self):
        refusal = {"code": "invalid", "message": "samples must be at most 120", "problems": []}
        client = self.client((200, encode(ZERO, "bf16")[0]), (422, refusal), (204, b""), (202, REPLY))
        client.fetch(0)
        client.samples = 150
        with self.assertRaisesRegex(Refused, "samples must be at most 120"):
            client.send(TASK, ZERO)
        client.samples = 120
        client.send(TASK, ZERO)
        self.assertEqual([method for method, _, _, _ in self.server.asked[2:]], ["PATCH", "PATCH", "PUT"])

    def test_a_refused_update_leaves_what_is_owed_as_it_was(self):
        refusal = {"code": "invalid", "message": "not so", "problems": []}
        client = self.client((200, encode(ZERO, "bf16")[0]), (422, refusal))
        client.fetch(0)
        with self.assertRaisesRegex(Refused, "422 invalid: not so") as caught:
            client.send(TASK, {"w": np.full((2, 3), 0.3, np.float32)})
        self.assertEqual((caught.exception.status, caught.exception.code), (422, "invalid"))
        self.assertIsNone(client.owed)

    def test_it_comes_back_where_a_refusal_passes_but_not_for_ever(self):
        busy = (503, {"code": "unavailable", "message": "later", "problems": []})
        self.assertEqual(self.client(busy, (429, b"slower"), (200, {"task": "wait"})).task(), {"task": "wait"})
        with self.assertRaisesRegex(Refused, "503 unavailable: later"):
            self.client(*[busy] * 5, attempts=5).task()

    def test_a_refusal_that_stays_is_reported_and_its_round_left_alone(self):
        page = (413, b"<html>413 Request Entity Too Large</html>")
        invalid = (422, {"code": "invalid", "message": "the update was rejected", "problems": ["w is not finite"]})
        model, train, done = (200, encode(ZERO, "bf16")[0]), (200, TASK), (200, {"cancel": True, "state": "error"})
        for refusal, words in [(page, "client_max_body_size"), (invalid, "422 invalid: w is not finite")]:
            # The same round asked for again is not trained again: nothing is sent but the report.
            client = self.client(train, model, refusal, done, train, done, (200, {"task": "stop", "reason": "banned"}))
            with unittest.mock.patch("fedlearn_client.PAUSE_S", 0), self.assertLogs("fedlearn"):
                client.take_part(dict)
            asked = [(method, path.split("?")[0]) for method, path, _, _ in self.server.asked[1:]]
            task, report = ("GET", "/run/clients/c1/task"), ("PUT", "/run/clients/c1/status")
            update = [("GET", "/run/models/0"), ("PUT", "/run/rounds/1/updates/c1")]
            self.assertEqual(asked, [task, *update, report, task, report, task])
            said = json.loads(self.asked(4)[3])
            self.assertEqual((said["state"], said["round"]), ("error", 1))
            self.assertIn(words, said["error"])

    def test_a_round_that_is_over_is_no_error_and_one_that_is_put_out_waits(self):
        closed, kicked = ({"code": code, "message": "no", "problems": []} for code in ("round_closed", "kicked"))
        model = (200, encode(ZERO, "bf16")[0])
        client = self.client((200, TASK), model, (410, closed), (403, kicked), (200, {"task": "stop", "reason": "banned"}))
        with unittest.mock.patch("fedlearn_client.PAUSE_S", 0), self.assertLogs("fedlearn"):
            client.take_part(dict)
        self.assertEqual([method for method, *_ in self.server.asked[1:]], ["GET", "GET", "PUT", "GET", "GET"])

    def test_a_task_of_a_newer_coordinator_is_logged_and_asked_again_later(self):
        client = self.client((200, {"task": "evaluate", "round": 3}), (200, TASK))
        with unittest.mock.patch("time.sleep") as slept, self.assertLogs("fedlearn") as logged:
            self.assertEqual(next(client.tasks())["round"], 1)
        slept.assert_called_once_with(3)
        self.assertIn("the task 'evaluate', which this client does not know", logged.output[0])

    def test_a_code_of_a_newer_coordinator_is_shown_with_its_message(self):
        with self.assertRaisesRegex(Refused, "451 censored: not here"):
            self.client((451, {"code": "censored", "message": "not here"})).task()

    def test_an_answer_that_cannot_be_read_is_an_error_with_its_address_status_and_beginning(self):
        for answer in [b"<html>Welcome</html>", b"[1]"]:
            client = self.client((200, answer))
            with self.assertRaises(Unreadable) as caught:
                client.task()
            for words in ["/run/clients/c1/task", "200", answer[:6].decode()]:
                self.assertIn(words, str(caught.exception))

    def test_where_nobody_listens_it_says_so_once_its_attempts_are_over(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with self.assertRaisesRegex(OSError, "refused"), self.assertLogs("fedlearn"):
            Client(f"http://127.0.0.1:{port}/run", "alice", 100, attempts=2)

    def test_it_leaves(self):
        self.client((204, b"")).leave()
        self.assertEqual(self.asked(1)[:2], ("DELETE", "/run/clients/c1"))


if __name__ == "__main__":
    unittest.main()
