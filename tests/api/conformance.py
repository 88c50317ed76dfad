"""The description is valid OpenAPI, and the coordinator keeps to it: schemathesis, all checks, every operation.

usage: conformance.py PROGRAM
"""

import os, pathlib, subprocess, sys

import schemathesis
from coordinator import coordinator
from relay import relay

tools = pathlib.Path(schemathesis.__file__).parents[1] / "bin"
here = pathlib.Path(__file__).parent

with coordinator(sys.argv[1]) as api:
    api.open_round()
    port = relay(int(api.origin.rsplit(":", 1)[1]))
    document = pathlib.Path("target/openapi.json")
    document.write_bytes(api.call_bytes("/api/openapi.json"))
    subprocess.run([tools / "openapi-spec-validator", document], check=True)
    tokens = {"CLIENT_TOKEN": api.client, "CLIENT_ID": api.client_id, "ADMIN_TOKEN": api.admin}
    tokens |= {"LEAVER_TOKEN": api.leaver, "LEAVER_ID": api.leaver_id}
    command = [tools / "schemathesis", "--config-file", here / "schemathesis.toml", "run", document]
    done = subprocess.run([*command, "--url", f"http://127.0.0.1:{port}"], env=os.environ | tokens)
    sys.exit(done.returncode)
