"""A relay in front of the coordinator for a test tool that waits for the end of each response: it ends streams of events after the
first one, and has no long-poll wait."""

import contextlib, re, socket, threading

WAIT = re.compile(rb"([?&]wait_s=)\d{1,9}(?=[& ])")


def relay(port):
    """Serves on a port of its own, which it returns."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, port), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def serve(client, port):
    upstream = socket.create_connection(("127.0.0.1", port))
    is_stream = threading.Event()

    def up():
        try:
            while data := client.recv(65536):
                data = WAIT.sub(rb"\g<1>0", data)
                line, _, rest = data.partition(b"\r\n")
                if b"/events" in line and line.endswith(b" HTTP/1.1"):
                    is_stream.set()  # HTTP/1.0: the end of the connection is the end of the body
                    data = line[: -len(b"HTTP/1.1")] + b"HTTP/1.0\r\n" + rest
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    threading.Thread(target=up, daemon=True).start()
    received = b""
    try:
        while data := upstream.recv(65536):
            client.sendall(data)
            if is_stream.is_set():
                received += data
                if b"text/event-stream" in received and received.endswith(b"\n\n") and b"\n\n" in received:
                    break
    except OSError:
        pass
    for connection in (client, upstream):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # the other thread may wait for it, and holds it open
        connection.close()
