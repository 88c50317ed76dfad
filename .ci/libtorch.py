"""Makes a libtorch folder (include/, lib/, build-version) from the wheels on PyPI.

usage: libtorch.py VERSION cpu|cuda FOLDER

`cpu` keeps only what runs without a GPU (0.5 GB on disk); `cuda` keeps everything and adds NVIDIA's libraries.
The folder is filled under another name and renamed at the end, so that an interrupted run leaves nothing half-made.
"""
import os, platform, shutil, subprocess, sys, tempfile, zipfile

version, kind, folder = sys.argv[1:4]
partial = folder + ".partial"
shutil.rmtree(partial, ignore_errors=True)
os.makedirs(partial + "/lib")
CPU_LIBS = ("libtorch_cpu.so", "libc10.so", "libgomp")  # and the two that libtorch_cpu of this build wants loaded:
CUDA_STUBS = ["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"]


def download(where, *packages):
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", where, "--only-binary=:all:",
         # fixed, whatever the Python that runs this: only the C++ libraries inside are used
         "--python-version", "3.11", "--implementation", "cp",
         *(f"--platform=manylinux_2_{minor}_{platform.machine()}" for minor in (28, 27, 25, 17)),
         f"--platform=manylinux2014_{platform.machine()}", *packages],
        check=True)


def requirements(wheel):
    """torch's own list of NVIDIA packages, as pip wants them."""
    with zipfile.ZipFile(wheel) as z:
        name = next(n for n in z.namelist() if n.endswith(".dist-info/METADATA"))
        for line in z.read(name).decode().splitlines():
            if line.startswith("Requires-Dist: ") and ("nvidia" in line or "cuda-toolkit" in line):
                yield line.removeprefix("Requires-Dist: ").split(";")[0].strip()


def unpack(wheel, take):
    with zipfile.ZipFile(wheel) as z:
        for member in z.infolist():
            target = take(member.filename)
            if target and not member.is_dir():
                path = os.path.join(partial, target)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with z.open(member) as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)


def from_torch(name):
    if name.startswith("torch/include/"):
        return name.removeprefix("torch/")
    base = os.path.basename(name)
    if name.startswith("torch/lib/") and ".so" in base and (kind == "cuda" or base.startswith(CPU_LIBS)):
        return "lib/" + base


def from_nvidia(name):
    base = os.path.basename(name)
    wanted = ".so" in base and (kind == "cuda" or base.startswith(("libcudart.so", "libcupti.so")))
    return "lib/" + base if wanted else None


with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as downloads:
    download(downloads, f"torch=={version}")
    torch_wheel = next(f.path for f in os.scandir(downloads) if f.name.startswith("torch-"))
    if kind == "cuda":  # with dependencies: they are all libraries
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", downloads, *requirements(torch_wheel)],
                       check=True)
    else:
        download(downloads, *CUDA_STUBS)
    unpack(torch_wheel, from_torch)
    for wheel in sorted(os.scandir(downloads), key=lambda f: f.name):
        if wheel.name.startswith("nvidia"):
            unpack(wheel.path, from_nvidia)

if kind == "cpu":  # the real libtorch.so pulls in libtorch_cuda
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", partial + "/lib/libtorch.so"], check=True)
with open(partial + "/build-version", "w") as f:
    f.write(version + "\n")
shutil.rmtree(folder, ignore_errors=True)
os.rename(partial, folder)
