"""A client that openapi-python-client generates from the description has every operation, and takes part in a round.

usage: generated.py PROGRAM
"""

import io, json, pathlib, subprocess, sys, tempfile, time

import schemathesis
from coordinator import coordinator

tools = pathlib.Path(schemathesis.__file__).parents[1] / "bin"

with tempfile.TemporaryDirectory() as folder, coordinator(sys.argv[1]) as api:
    document = pathlib.Path(folder, "openapi.json")
    document.write_bytes(api.call_bytes("/api/openapi.json"))
    package = pathlib.Path(folder, "fedlearn_api")
    generate = [tools / "openapi-python-client", "generate", "--path", document, "--output-path", package, "--meta", "none"]
    subprocess.run(generate, check=True)

    # Every operation is there.
    operations = [op for path in json.loads(document.read_bytes())["paths"].values() for op in path.values()]
    wanted = {op["operationId"] for op in operations}
    made = {file.stem.rstrip("_") for file in package.glob("api/*/[!_]*.py")}
    assert made == wanted, f"missing: {wanted - made}, not described: {made - wanted}"

    sys.path.insert(0, folder)
    from fedlearn_api import AuthenticatedClient, Client
    from fedlearn_api.api.admin import create, start_round
    from fedlearn_api.api.client import get_model, put_update, register, task
    from fedlearn_api.api.read import rounds
    from fedlearn_api.models import Architecture, CreateRun, ErrorBody, ModelSpec, RegisterRequest, RoundOutcome
    from fedlearn_api.types import File

    anybody = Client(api.origin)
    admin = AuthenticatedClient(api.origin, api.admin)
    model = ModelSpec(architecture=Architecture.CNN, channels=1, classes=10)
    created = create.sync_detailed(client=admin, body=CreateRun(run="generated", model=model))
    assert created.status_code == 201, created

    # A client registers,
    me = register.sync("generated", client=anybody, body=RegisterRequest(name="generated", samples=100))
    client = AuthenticatedClient(api.origin, me.token)
    assert start_round.sync_detailed("generated", client=admin).status_code == 202
    # is given its task,
    work = task.sync("generated", me.client_id, client=client)
    assert work.to_dict()["task"] == "train", work
    # fetches the model, and sends an update.
    received = get_model.sync_detailed("generated", str(work.version), client=client)
    assert received.status_code == 200
    body = File(io.BytesIO(received.content))
    sent = put_update.sync_detailed("generated", work.round_, me.client_id, client=client, body=body, samples=100)
    assert sent.status_code == 202, sent
    for _ in range(150):
        if over := rounds.sync("generated", client=anybody):
            break
        time.sleep(0.2)
    assert [(r.number, r.outcome, r.updates) for r in over] == [(1, RoundOutcome.COMPLETE, 1)], over
    # And a refusal is understood.
    refusal = rounds.sync("no-such-run", client=anybody)
    assert isinstance(refusal, ErrorBody) and refusal.code == "not_found", refusal
print("generated: the generated client has every operation and took part in a round")
