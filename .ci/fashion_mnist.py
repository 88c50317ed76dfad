"""Downloads the official Fashion-MNIST files into a folder and checks them by SHA-256. usage: fashion_mnist.py FOLDER

The digests are those of the unpacked files: Debian's package has the same files with other gzip headers.
"""
import gzip, hashlib, http.client, os, sys, urllib.request, zlib

BASE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = {
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
}
folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
for name, want in FILES.items():
    try:
        with urllib.request.urlopen(BASE + name, timeout=60) as reply:
            body = reply.read()
        got = hashlib.sha256(gzip.decompress(body)).hexdigest()
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:  # not there, cut short, or damaged
        sys.exit(f"{BASE + name}: {error}")
    if got != want:
        sys.exit(f"{name}: SHA-256 is {got}, expected {want}")
    path = os.path.join(folder, name)
    with open(path + ".partial", "wb") as f:
        f.write(body)
    os.rename(path + ".partial", path)
