"""What one client, or somebody without any credential, can do to the run, the page, the log, the disk, under defaults."""
import csv, io
from kit import *
a = arguments(); r = Report(); c = Coordinator(a.binary)
BODY = tensors(w=("F32", [4], floats(0, 0, 0, 0)))
assert c.create("own", BODY)[0] == 201; c.patch("own", {"min_clients": 3})
# names and texts that mean something to a page, a terminal, a spreadsheet; `+1+1` may register: exports neutralise it
for name in ("<script>alert(1)</script>", "=cmd|' /C calc'!A0", "+1+1", "@SUM(1)", "-2+3", "a\nb", "a\x1b[31mred", "a\u202egnp.exe", "a\u0000b", "", " ", "x" * 10000, "../../etc/passwd", "a\u200bb", "\ufeffa", "admin", "A" * 64):
    got = c.join("own", name)
    taken = isinstance(got, Client)
    r.check(f"name {name[:24]!r}", not taken or name in ("admin", "A" * 64) or name.isprintable() and not name.startswith(("=", "@")), "taken" if taken else f"{got[0]} {got[1][:90]}")
good = [c.join("own", f"ok{i}") for i in range(3)]
c.rounds("own", 3); good[0].train()
evil = "<img src=x onerror=alert(1)>\x1b[31m\n=1+1"
for field in ({"state": "error", "error": evil}, {"state": "error", "message": evil}, {"state": "training", "error": evil}):
    s, _, b = c.call("PUT", f"/api/v1/runs/own/clients/{good[0].id}/status", field, token=good[0].token); print("   status", field.keys(), s, b[:120])
page = c.call("GET", "/runs/own")[2]; r.check("page escapes the error text", b"<img src=x" not in page)
r.check("no terminal escapes in the log", b"\x1b[31m" not in c.log().replace(b"\x1b[31mERROR", b""))
for progress in ({"epoch": 1e308}, {"epoch": -5, "epochs": 0}, {"done": 1 << 63}, {"progress": {"done": 10, "total": 0}}, {"progress": {"epoch": 9, "epochs": 1, "batch": 99999999, "batches": 1}}):
    s, _, b = c.call("PUT", f"/api/v1/runs/own/clients/{good[1].id}/status", {"state": "training", **progress}, token=good[1].token); r.check(f"progress {progress}", s < 500, f"{s} {b[:80]}")
for state in ("finish", "pending", "kicked", "quarantine", "offline", "admin", ""):
    s, _, b = c.call("PUT", f"/api/v1/runs/own/clients/{good[1].id}/status", {"state": state}, token=good[1].token)
    now = next(x["state"] for x in c.snapshot("own")["clients"] if x["client_id"] == good[1].id) if s < 300 else ""
    r.check(f"a client says it is '{state}'", s >= 400 or now not in ("pending", "kicked", "quarantine"), f"{s} {now}")
# floods by one client or by nobody
log, disk, rss, t = len(c.log()), c.disk(), c.rss_mib(), time.time()
for i in range(3000): c.call("PUT", f"/api/v1/runs/own/clients/{good[1].id}/status", {"state": "training", "epoch": i % 7}, token=good[1].token)
r.check("3,000 status reports: log, disk", len(c.log()) - log < 300_000 and c.disk() - disk < 5_000_000, f"log +{len(c.log())-log} B, disk +{c.disk()-disk} B, {time.time()-t:.1f} s")
log = len(c.log())
for i in range(2000): c.call("GET", f"/api/v1/runs/own/clients/{good[1].id}/task", token="wrong%d" % i)
r.check("2,000 wrong tokens: log", len(c.log()) - log < 400_000, f"log +{len(c.log())-log} B")
r.check("the right token still works from there", c.call("GET", f"/api/v1/runs/own/clients/{good[1].id}/task?wait_s=0", token=good[1].token)[0] == 200)
log, disk, rss, t = len(c.log()), c.disk(), c.rss_mib(), time.time()
made = 0
for i in range(10000):
    s = c.call("POST", "/api/v1/runs/own/clients", {"name": f"sybil-{i}", "samples": 10_000_000})[0]; made += s == 201
# Open admission means that: whoever reaches the coordinator may register. A run has 100,000 clients at most; join_secret and
# approval are against it.
r.check("10,000 registrations by one address with admission open cost little", len(c.log()) - log < 2_000_000 and c.disk() - disk < 10_000_000, f"{made} taken, log +{len(c.log())-log} B, disk +{c.disk()-disk} B, RSS +{c.rss_mib()-rss:.0f} MiB, {time.time()-t:.0f} s")
t = time.time(); s, h, b = c.call("GET", "/runs/own"); r.check("page with them", time.time() - t < 1 and len(b) < 2_000_000, f"{len(b)} B in {time.time()-t:.2f} s")
t = time.time(); s, h, b = c.call("GET", "/api/v1/runs/own"); # The snapshot holds the whole roster, some 250 bytes a client.
r.check("snapshot with them", len(b) < 4_000_000, f"{len(b)} B in {time.time()-t:.2f} s")
log, disk, t = len(c.log()), c.disk(), time.time()
for i in range(1000):
    x = c.join("own", "flap"); c.call("DELETE", f"/api/v1/runs/own/clients/{x.id}", token=x.token)
s = len(c.snapshot("own")["clients"]); r.check("1,000 times join and leave", c.disk() - disk < 3_000_000, f"roster {s}, log +{len(c.log())-log} B, disk +{c.disk()-disk} B, {time.time()-t:.1f} s")
c.close()
# weight: what one of three may do to the model
c = Coordinator(a.binary); c.create("own", tensors(w=("F32", [4], floats(0, 0, 0, 0)))); c.patch("own", {"min_clients": 3})
trio = [c.join("own", n, s) for n, s in (("a", 100), ("b", 100), ("+1+1", 10_000_000))]
c.rounds("own", 2)
def send(which, value, samples):
    t = which.train(); return which.put(t["round"], tensors(w=("F32", [4], floats(*[value] * 4))), query=f"samples={samples}")[0]
print("  ", [send(trio[0], 0.01, 100), send(trio[1], 0.01, 100), send(trio[2], -500000.0, 10_000_000)]); time.sleep(1)
s, h, m = c.call("GET", "/api/v1/runs/own/models/1", None, {"Accept": ST}, token=trio[0].token)
value = struct.unpack("<f", m[-16:-12])[0] if s == 200 else None
r.check("in the first round one of three who claims 10 million samples and sends -500,000 does not decide the model", value is not None and abs(value) < 1, f"w = {value}")
# The attacker's error makes the second round void. The round's record names the attacker.
number = trio[2].train()["round"]
s, _, b = c.call("PUT", f"/api/v1/runs/own/clients/{trio[2].id}/status", {"state": "error", "round": number, "error": "=1+1"}, token=trio[2].token); print("  ", s, b)
for _ in range(50):
    if len(c.snapshot("own")["rounds"]) == 2: break
    time.sleep(0.1)
rows = list(csv.reader(io.StringIO(c.call("GET", "/api/v1/runs/own/export.csv")[2].decode())))
r.check("the CSV has a row of each round", len(rows) == 3, str(rows)[:200])
def is_number(cell):
    try: float(cell)
    except ValueError: return False
    return True
cells = [cell for row in rows[1:] for cell in row if not is_number(cell)]
r.check("the CSV names the attacker", any("+1+1" in cell for cell in cells), str(cells))
r.check("the CSV has no formula", not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t") and not is_number(cell)], str(rows))
c.close(); r.end()
