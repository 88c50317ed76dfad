"""Every route of the OpenAPI document with every wrong credential: nothing changes, nothing secret is read."""
from kit import *
arguments_ = arguments(); r = Report(); c = Coordinator(arguments_.binary, env={"FEDLEARN_JOIN_SECRET": "sesame-open-42"})
BODY = tensors(w=("F32", [4], floats(0, 0, 0, 0)))
for run in ("a", "b"): assert c.create(run, BODY)[0] == 201
def join(run, name):
    for headers in ({"X-Join-Secret": "sesame-open-42"}, {"Authorization": "Bearer sesame-open-42"}):
        s, _, b = c.call("POST", f"/api/v1/runs/{run}/clients", {"name": name, "samples": 10}, headers)
        if s == 201: return Client(c, run, json.loads(b))
    s, _, b = c.call("POST", f"/api/v1/runs/{run}/clients", {"name": name, "samples": 10, "join_secret": "sesame-open-42"})
    return Client(c, run, json.loads(b)) if s == 201 else print("join", s, b)
me, other, foreign, gone = join("a", "me"), join("a", "other"), join("b", "foreign"), join("a", "gone")
print(c.call("POST", f"/api/v1/runs/a/clients/{gone.id}/kick", {}, token=c.admin)[:1])
doc = json.loads(c.call("GET", "/api/openapi.json")[2])
def state():
    s = c.snapshot("a"); s.pop("seq", None)
    for x in s["clients"]: x.pop("seen_ms", None)
    return json.dumps([s, sorted(x.get("id", x.get("run", "")) for x in json.loads(c.call("GET", "/api/v1/runs")[2]))], sort_keys=True)
fill = {"run": "a", "id": me.id, "client": me.id, "client_id": me.id, "n": "1", "round": "1", "version": "0", "number": "1"}
bodies = {"autorun": {"rounds": 1}, "kick": {}, "session": {"token": "nonsense"}}
wrong = {
 "none": {}, "other client": {"Authorization": "Bearer " + other.token}, "client of another run": {"Authorization": "Bearer " + foreign.token},
 "kicked": {"Authorization": "Bearer " + gone.token}, "empty bearer": {"Authorization": "Bearer "}, "basic": {"Authorization": "Basic " + "YWRtaW46YWRtaW4="},
 "lower": {"Authorization": "bearer " + c.admin[:-1]}, "two spaces": {"Authorization": "Bearer  x"}, "upper token": {"Authorization": "Bearer " + c.admin.swapcase()},
 "forged cookie": {"Cookie": "fedlearn_session=" + "A" * 43}, "admin as cookie": {"Cookie": "session=" + c.admin},
}
public = lambda m, p: m == "GET" and not re.search(r"/(task|updates|models)", p)
before = state()
for path, item in doc["paths"].items():
    for method in item:
        if method not in ("get", "put", "post", "delete", "patch"): continue
        M = method.upper()
        real = re.sub(r"\{(\w+)\}", lambda m: fill.get(m.group(1), "x"), path)
        if public(M, path) or path.endswith("/session") and M == "DELETE": continue
        if path.endswith("/clients") and M == "POST": continue
        body = next((v for k, v in bodies.items() if path.endswith(k)), {})
        for name, headers in wrong.items():
            # models are for any client of the run
            if "/models" in path and name == "other client": continue
            extra = {"If-Match": '"1"'} if M == "PATCH" else {}
            q = "?samples=10" if M == "PUT" and "updates" in path else "?wait_s=0" if path.endswith("task") else "?run=evil" if path.endswith("/runs") else ""
            kind = BODY if "updates" in path and M == "PUT" or path.endswith("/runs") and M == "POST" else None if M in ("GET", "DELETE") else body
            h = {**headers, **extra}
            if kind is BODY: h["Content-Type"] = ST
            s, hd, b = c.call(M, real + q, kind, h)
            ok = s in (401, 403, 404, 429) or path.endswith("/session") and s in (400, 401, 422, 429)
            if not ok: r.check(f"{M} {path} with {name}", False, f"{s} {b[:120]}")
            else: r.good += 1
r.check("nothing has changed", state() == before)
# tricks with paths and methods
for trick in ("//api/v1/runs/a/rounds", "/api/v1/./runs/a/rounds", "/api/v1/runs/b/../a/rounds", "/api/v1/runs/a%2frounds", "/api/v1/runs/a/rounds/", "/API/V1/runs/a/rounds", "/api/v1/runs/%61/rounds", "/api/v1/runs/a;x=1/rounds", "/api/v1/runs/a/rounds%00", "/api/v1/runs/a/rounds?token=" + c.admin, "/api/v1/runs/a/rounds?access_token=" + c.admin):
    s, _, b = c.call("POST", trick, {})
    r.check("POST " + trick.replace(c.admin, "ADMIN"), s in (400, 401, 403, 404, 405, 429), str(s))
for name in ("X-HTTP-Method-Override", "X-Method-Override", "_method"):
    s = c.call("GET", "/api/v1/runs/a/autorun", None, {name: "POST"})[0]; r.check("override " + name, s in (401, 404, 405), str(s))
for M in ("TRACE", "CONNECT", "PROPFIND", "OPTIONS", "HEAD"):
    try: s, h, b = c.call(M, "/api/v1/runs/a"); r.check("method " + M, s < 500 and "access-control-allow-origin" not in h, f"{s}")
    except Exception as e: r.check("method " + M, True, repr(e)[:60])
# session: cookie flags, csrf, logout, fixation
s, h, b = c.call("POST", "/api/v1/session", {"token": c.admin}); cookie = h.get("set-cookie", "")
r.check("log in", s == 204, cookie.split("=")[0]); r.check("cookie flags", all(w in cookie.lower() for w in ("httponly", "samesite=strict", "path=/")), re.sub("=[^;]+", "=...", cookie, count=1))
jar = cookie.split(";")[0]
DASHBOARD = {"fedlearn-dashboard": "1"}  # what the page's own script sends; no other page can without asking first
def act(extra): return c.call("DELETE", "/api/v1/runs/a/autorun", None, {"Cookie": jar, **extra})[0]
same = f"http://127.0.0.1:{c.port}"
r.check("the dashboard acts", act({"Origin": same, **DASHBOARD}) < 300, str(act({"Origin": same, **DASHBOARD})))
# Behind a proxy Host and Origin differ, so the header decides, and not they; Sec-Fetch-Site must agree where a browser sends it.
r.check("the dashboard acts behind a proxy", act({"Origin": "https://fl.example", **DASHBOARD}) < 300)
# A script of another origin must ask first whether it may send that header, and is never told that it may.
for origin in (same, "http://evil.example", "null"):
    s, h, _ = c.call("OPTIONS", "/api/v1/runs/a/autorun", None, {"Origin": origin, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "fedlearn-dashboard"})
    r.check("preflight from " + origin, not [name for name in h if name.startswith("access-control-")], f"{s} {h}")
for name, extra in {"foreign": {"Origin": "http://evil.example"}, "null": {"Origin": "null"}, "none": {}, "prefix": {"Origin": same + ".evil.example"}, "other port": {"Origin": f"http://127.0.0.1:{c.port+1}"}, "https": {"Origin": same.replace("http", "https")}, "fetch-site": {"Origin": same, "Sec-Fetch-Site": "cross-site", **DASHBOARD}, "same-site": {"Origin": same, "Sec-Fetch-Site": "same-site", **DASHBOARD}}.items():
    s = act(extra); r.check("session with origin " + name, s in (401, 403), str(s))
s = c.call("POST", "/api/v1/session", {"token": c.admin}, {"Cookie": "fedlearn_session=fixed", "Origin": "http://evil.example"}); r.check("log-in from another origin", s[0] in (204, 401, 403), str(s[0]))
s = c.call("DELETE", "/api/v1/session", None, {"Cookie": jar, "Origin": same, **DASHBOARD})[0]; r.check("log out", s < 300, str(s))
r.check("session is over", act({"Origin": same, **DASHBOARD}) == 401, str(act({"Origin": same, **DASHBOARD})))
# secrets never in public answers, logs
text = b"".join(c.call("GET", p)[2] for p in ("/api/v1/runs", "/api/v1/runs/a", "/api/v1/runs/a/clients", "/api/v1/runs/a/export.csv", "/metrics", "/runs/a", "/"))
for name, secret in {"admin": c.admin, "client": me.token, "join": "sesame-open-42"}.items():
    r.check(f"{name} secret not in answers", secret.encode() not in text); r.check(f"{name} secret not in log", secret.encode() not in c.log())
    hits = [f for f in Path(c.folder, "data").rglob("*") if f.is_file() and secret.encode() in f.read_bytes()]
    r.check(f"{name} secret not in files", not hits, str([h.name for h in hits]))
# brute force
seen = set(); t = time.time()
for i in range(400): seen.add(c.call("POST", "/api/v1/session", {"token": f"{i:043d}"}, {"X-Forwarded-For": f"10.0.0.{i%250}"})[0])
r.check("guessing the admin token is slowed, also with X-Forwarded-For", 429 in seen, f"{seen} in {time.time()-t:.1f} s")
seen = set()
for i in range(100): seen.add(c.call("POST", "/api/v1/runs/a/clients", {"name": f"g{i}", "samples": 1, "join_secret": f"x{i}"}, {"X-Forwarded-For": f"10.0.1.{i%250}"})[0])
r.check("guessing the join secret is slowed", 429 in seen, str(seen))
c.close(); r.end()
