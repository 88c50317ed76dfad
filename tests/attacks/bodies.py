"""Hostile updates: a clean 4xx or an accepted finite one, memory bounded, the model stays whole. With zstandard installed its bombs are tried too."""
import random
from urllib.parse import urljoin
from kit import *
a = arguments(); r = Report(); c = Coordinator(a.binary); random.seed(7)
N = 3000
BASE = tensors(w=("F32", [N], b"\0" * 4 * N), b=("F32", [2, 3], b"\0" * 24), n=("I64", [], struct.pack("<q", 5)))
assert c.create("own", BASE)[0] == 201, c.create("own2", BASE)
print(c.patch("own", {"min_clients": 1, "max_strikes": 1000, "deadline_s": 3600})[0], c.patch("own", {"cohort": {"size": 3}})[0])
me = c.join("own", "attacker"); honest = c.join("own", "honest")
# A refused update is a failure of its client in this round: with two others a quorum stays possible, and the round open.
other = c.join("own", "other")
c.patch("own", {"min_clients": 2})
print(c.rounds("own", 1000)[0]); task = me.train(); number = task["round"]
rss = c.rss_mib()
def advance():
    global number
    for client in (honest, other): client.train(); client.put(number, head(good, D))
    number = me.train()["round"]
def refuse(name, body, kind=ST, ok=(400, 411, 413, 415, 422), **h):
    global number
    try: s, _, b = me.put(number, body, kind, **h)
    except (ConnectionError, http.client.HTTPException, TimeoutError) as e: r.check(name, False, repr(e)); return
    r.check(name, s in ok, f"{s} {b[:110]}")
    if s in (200, 202): advance()
def head(text, data=b""):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text)) + text + data
good = {"w": {"dtype": "F32", "shape": [N], "data_offsets": [0, 4 * N]}, "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4 * N, 4 * N + 24]}, "n": {"dtype": "I64", "shape": [], "data_offsets": [4 * N + 24, 4 * N + 32]}}
D = b"\0" * (4 * N + 24) + struct.pack("<q", 5)
def but(**change):
    h = json.loads(json.dumps(good)); h.update(change); return h
refuse("empty", b""); refuse("seven bytes", b"\0" * 7); refuse("header longer than the body", struct.pack("<Q", 1 << 20) + b"{}")
refuse("header of 2^63", struct.pack("<Q", 1 << 63) + b"{}"); refuse("header of 2^64-1", struct.pack("<Q", (1 << 64) - 1) + b"{}")
refuse("no JSON", head(b"not json at all", D)); refuse("deep JSON", head(b"[" * 200000)); refuse("JSON of 5 MB", head(b"{" + b" " * 5_000_000 + b"}"))
refuse("duplicate names", head(b'{"w":{"dtype":"F32","shape":[3000],"data_offsets":[0,12000]},"w":{"dtype":"F32","shape":[3000],"data_offsets":[0,12000]}}', b"\0" * 12000))
refuse("shape overflow", head(but(w={"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 4 * N]}), D))
refuse("shape 2^64", head(json.dumps(good).replace("[3000]", "[18446744073709551616]").encode(), D))
refuse("negative shape", head(but(w={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4 * N]}), D))
refuse("float shape", head(but(w={"dtype": "F32", "shape": [3000.0], "data_offsets": [0, 4 * N]}), D), ok=(400, 422, 202, 200))
refuse("zero x 2^63", head(but(z={"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [4 * N + 32, 4 * N + 32]}), D))
refuse("overlap", head(but(b={"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}), D)); refuse("beyond the end", head(but(b={"dtype": "F32", "shape": [2, 3], "data_offsets": [1 << 40, (1 << 40) + 24]}), D))
refuse("end before begin", head(but(b={"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}), D)); refuse("gap", head(but(n={"dtype": "I64", "shape": [], "data_offsets": [4 * N + 32, 4 * N + 40]}), D + b"\0" * 8))
refuse("trailing bytes", head(good, D + b"x")); refuse("one byte short", head(good, D[:-1])); refuse("another tensor", head(but(extra={"dtype": "F32", "shape": [0], "data_offsets": [4 * N + 32, 4 * N + 32]}), D))
refuse("missing tensor", tensors(w=("F32", [N], b"\0" * 4 * N))); refuse("other dtype", head(but(n={"dtype": "F64", "shape": [], "data_offsets": [4 * N + 24, 4 * N + 32]}), D))
refuse("name of 1 MB", head(but(**{"x" * 1_000_000: {"dtype": "F32", "shape": [0], "data_offsets": [4 * N + 32, 4 * N + 32]}}), D))
refuse("65,537 tensors", head({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(65537)}))
for name, bits in {"NaN": 0x7fc00000, "signalling NaN": 0x7f800001, "inf": 0x7f800000, "-inf": 0xff800000}.items():
    refuse(name, head(good, struct.pack("<I", bits) + D[4:]))
refuse("largest float everywhere", head(good, floats(*[3.4028234e38] * N) + D[4 * N:]))
refuse("octet-stream is read as safetensors", head(good, D), "application/octet-stream", ok=(202,))
for kind in ("application/json", "text/html", "multipart/form-data; boundary=x", "application/vnd.safetensors; charset=utf-8", "", "x" * 5000): refuse("content type " + kind[:40], head(good, D), kind, ok=(400, 415, 422, 431) + ((202, 200) if "charset" in kind else ()))
try:
    import zstandard as z
    Z = lambda b, **k: z.ZstdCompressor(**k).compress(b)
    e = {"Content-Encoding": "zstd"}
    refuse("zstd of zeros, 4 GB", b"".join([Z(b"\0" * (1 << 26))] * 64), **e); refuse("zstd bomb, one frame", Z(b"\0" * (1 << 30)), **e); refuse("zstd truncated", Z(head(good, D))[:-5], **e)
    refuse("zstd twice", Z(Z(head(good, D))), **e); refuse("zstd window 2^31", Z(b"\0" * 100000, compression_params=z.ZstdCompressionParameters(window_log=31)) if False else b"\x28\xb5\x2f\xfd\x00\xa8" + b"\0" * 100, **e); refuse("gzip", b"\x1f\x8b" + b"\0" * 50, **{"Content-Encoding": "gzip"}); refuse("zstd, zstd", Z(Z(head(good, D))), **{"Content-Encoding": "zstd, zstd"})
    refuse("100,000 empty frames", Z(b"") * 100000, **e)
except ImportError: print("no zstandard: its part is left out")
r.check("memory", c.rss_mib() < rss + 150, f"{rss:.0f} -> {c.rss_mib():.0f} MiB")
# truncated and flipped bodies of the container
s, h, container = c.call("GET", "/api/v1/runs/own/models/0", None, {"Accept": "application/vnd.fedlearn.params"}, token=me.token)
CT = "application/vnd.fedlearn.params"; counts = {}
for i in range(400):
    b = bytearray(container); at = random.randrange(len(b)); b[at] ^= 1 << random.randrange(8)
    s, _, why = me.put(number, bytes(b), CT); counts[s] = counts.get(s, 0) + 1
    if s >= 500 or s < 400: r.check(f"bit flip at {at}", False, f"{s} {why[:100]}")
r.check("400 single-bit flips", set(counts) == {422}, str(counts)); counts = {}
for i in range(100):
    s, _, why = me.put(number, container[:random.randrange(len(container))], CT); counts[s] = counts.get(s, 0) + 1
r.check("100 truncations", set(counts) <= {422, 400}, str(counts)); counts = {}
st = head(good, D); flips = 0
for i in range(300):
    b = bytearray(st); at = random.randrange(700) if i % 2 else random.randrange(len(b)); b[at] ^= 1 << random.randrange(8)
    s, _, why = me.put(number, bytes(b)); counts[s] = counts.get(s, 0) + 1
    if s in (202, 200):
        # taken: a value that is another finite one; the round goes on with the honest client
        advance(); flips += 1
r.check("300 flips of safetensors", max(counts) < 500, f"{counts}")
s, _, model = c.call("GET", "/api/v1/runs/own/models/latest", None, {"Accept": ST}, token=me.token)
if s in (302, 303, 307, 308): s, _, model = c.call("GET", urljoin("/api/v1/runs/own/models/latest", _["location"]), None, {"Accept": ST}, token=me.token)
n = struct.unpack("<Q", model[:8])[0]; o = json.loads(model[8:8 + n])["w"]["data_offsets"]; v = struct.unpack(f"<{N}f", model[8 + n + o[0]:8 + n + o[1]])
r.check("model finite afterwards", all(abs(x) < 1e30 for x in v), f"version after {flips} flips taken, max {max(map(abs, v)):.3g}")
# query parameters
for q in ("", "samples=", "samples=0", "samples=-1", "samples=1e3", "samples=99999999999999999999", "samples=100&samples=200", "samples=100&loss=nan", "samples=100&loss=inf", "samples=100&loss=1e999", "samples=100&unknown=1", "samples=100&sha256=xyz", "samples=100&sha256=" + "0" * 64, "samples=100&offset=5", "samples=100&offset=18446744073709551616&sha256=" + "0" * 64, "samples=100&offset=-1&sha256=" + "0" * 64):
    s, _, b = me.put(number, st, query=q); r.check("query " + q[:50], s in (400, 409, 422) , f"{s} {b[:80]}")
    if s in (200, 202): advance()
for n2 in ("0", "-1", "99999", "18446744073709551615", "18446744073709551616", "1e3", "current", "%00", "1%20"):
    s, _, b = me.put(n2, st); r.check("round " + n2, s in (400, 404, 409, 410, 422, 425), f"{s} {b[:80]}")
s, _, b = c.call("PUT", f"/api/v1/runs/own/rounds/{number}/updates/{honest.id}?samples=100", st, {"Content-Type": ST}, me.token); r.check("in another's name", s in (401, 403), str(s))
c.close(); r.end()
