#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loading weights to a GPU from a plain file, from today's delivery into memory (dir) and from the view: seconds, GB/s, CPU, and
that what arrives is the same; then what a suspension does to a process that has the weights mapped. For a machine with an H100
and without systemd; --cpu keeps everything in ordinary memory, to try it anywhere. Prints JSON.

    gpu_view.py --bin DIR [--gib 8] [--rounds 2] [--work /dev/shm/tb-gpu] [--cpu]

DIR has tb-decrypt, tb-load and tbpkg. Root, or a user that can open /dev/fuse and may make user namespaces."""

import argparse
import ctypes
import json
import mmap
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

MIB, GIB = 1 << 20, 1 << 30
SHARDS, TENSOR = 4, 64 * MIB


# -- the runtime: loads and says how long it took -----------------------------------------------------------------------------
def headers(model):
    """(path, name, offset in the file, bytes) of every tensor."""
    for path in sorted(pathlib.Path(model).glob("*.safetensors")):
        with open(path, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            for name, t in json.loads(f.read(n)).items():
                if name != "__metadata__":
                    yield path, name, 8 + n + t["data_offsets"][0], t["data_offsets"][1] - t["data_offsets"][0]


def load_safetensors(torch, model, device):
    from safetensors import safe_open
    out = {}
    for path in sorted(pathlib.Path(model).glob("*.safetensors")):
        with safe_open(str(path), framework="pt", device=device) as f:
            for name in f.keys():
                out[name] = f.get_tensor(name)
    return out


def open_direct(path):
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError:
        return os.open(path, os.O_RDONLY), False


def load_direct(torch, model, device, threads=16, piece=8 * MIB):
    """What a fast loader does: threads read aligned pieces with O_DIRECT into pinned memory and copy them to the device."""
    parts, out, jobs = list(headers(model)), {}, []
    for path, name, off, n in parts:
        out[name] = torch.empty(n, dtype=torch.uint8, device=device)
        jobs += [(path, name, off, at, min(piece, n - at)) for at in range(0, n, piece)]
    fds = {p: open_direct(p) for p in {j[0] for j in jobs}}
    lock, position, failed = threading.Lock(), [0], []
    cuda = device != "cpu"

    def work():
        try:
            room = piece + 2 * 4096
            spare = torch.empty(room + 4096, dtype=torch.uint8, pin_memory=cuda)
            base = spare.data_ptr()
            skip0 = -base % 4096
            raw = (ctypes.c_ubyte * room).from_address(base + skip0)
            view = memoryview(raw).cast("B")
            stream = torch.cuda.Stream() if cuda else None
            while True:
                with lock:
                    if position[0] == len(jobs):
                        return
                    path, name, off, at, n = jobs[position[0]]
                    position[0] += 1
                fd, start = fds[path][0], (off + at) // 4096 * 4096
                skip = off + at - start
                want, got = skip + n, 0
                while got < want:
                    k = os.preadv(fd, [view[got:(want + 4095) // 4096 * 4096]], start + got)
                    if k <= 0:
                        raise OSError(f"{path}: short read at {start + got}")
                    got += k
                piece_t = spare[skip0 + skip:skip0 + skip + n]
                if cuda:
                    with torch.cuda.stream(stream):
                        out[name][at:at + n].copy_(piece_t, non_blocking=True)
                    stream.synchronize()
                else:
                    out[name][at:at + n].copy_(piece_t)
        except Exception as e:  # told by the main thread
            failed.append(e)

    ts = [threading.Thread(target=work) for _ in range(threads)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    for fd, _ in fds.values():
        os.close(fd)
    if failed:
        raise failed[0]
    load_direct.direct = all(d for _, d in fds.values())
    return out


def checksum(torch, tensors):
    total = 0
    for i, name in enumerate(sorted(tensors)):
        x = tensors[name].reshape(-1)
        x = x.view(torch.int32) if x.dtype != torch.int32 else x
        total = (total * 31 + int(torch.sum(x, dtype=torch.int64).item()) * (i + 1)) % (1 << 61)
    return total


def runtime(loader, model, out, device):
    import torch
    if device != "cpu":
        torch.zeros(1, device=device)
        torch.cuda.synchronize()
    t, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    tensors = {"safetensors": load_safetensors, "direct": load_direct}[loader](torch, model, device)
    if device != "cpu":
        torch.cuda.synchronize()
    seconds, after = time.monotonic() - t, resource.getrusage(resource.RUSAGE_SELF)
    n = sum(x.numel() * x.element_size() for x in tensors.values())
    facts = {"seconds": round(seconds, 3), "bytes": n, "gb_per_s": round(n / seconds / 1e9, 2), "begun": t, "ended": t + seconds,
             "cpu_s": round(after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime, 2), "checksum": checksum(torch, tensors),
             "o_direct": getattr(load_direct, "direct", None)}
    write(out, json.dumps(facts))


def write(path, text):
    pathlib.Path(path + ".tmp").write_text(text)
    os.rename(path + ".tmp", path)


def mapper(model, out):
    """Maps all shards, touches every page, says so, and goes on until a signal ends it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    maps, fd = [], -1
    for path in sorted(pathlib.Path(model).glob("*.safetensors"))[:1]:
        fd, n = os.open(path, os.O_RDONLY), os.stat(path).st_size
        base = libc.mmap(None, n, 1, 1, fd, 0)
        locked = libc.mlock(ctypes.c_void_p(base), ctypes.c_size_t(n)) == 0
        maps.append((base, n))
    pid = os.fork()
    if pid == 0:
        total = 0
        while True:
            for base, n in maps:
                for at in range(0, n, 1 << 16):
                    total += ctypes.c_ubyte.from_address(base + at).value
            if not os.path.exists(out + ".touched"):
                write(out + ".touched", json.dumps({"locked": locked}))
    status = os.waitpid(pid, 0)[1]
    died = time.monotonic()
    try:
        os.pread(fd, 4096, 0)
        read = "readable"
    except OSError as e:
        read = e.strerror
    write(out, json.dumps({"signal": signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status,
                           "died": died, "pread_after": read, "locked": locked}))


# -- the machine: a model, the chain, the rounds ------------------------------------------------------------------------------
def make_model(place, gib, device):
    """SHARDS files of random bf16 tensors; every bit pattern occurs, as only bytes are compared."""
    place.mkdir(parents=True)
    size = int(gib * GIB) // SHARDS // TENSOR * TENSOR or TENSOR

    def shard(i):
        import random
        rng, block = random.Random(i), None
        names = {f"layer.{i}.{k}": {"dtype": "BF16", "shape": [TENSOR // 2], "data_offsets": [k * TENSOR, (k + 1) * TENSOR]}
                 for k in range(size // TENSOR)}
        text = json.dumps(names).encode()
        text += b" " * (-len(text) % 8)
        with open(place / f"model-{i + 1:05}-of-{SHARDS:05}.safetensors", "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for k in range(size // TENSOR):
                block = os.urandom(TENSOR // 16) if k % 4 == 0 else block[1:] + block[:1]
                for _ in range(16):
                    f.write(block)
                    block = block[7:] + block[:7]
        return rng

    ts = [threading.Thread(target=shard, args=(i,)) for i in range(SHARDS)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    (place / "config.json").write_text("{}")
    return size * SHARDS


def cpu_of(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Chain:
    """tb-decrypt and tb-load as their units would run them, once."""

    def __init__(self, a, work, key, mode, n):
        self.dir = work / f"run-{n}"
        (self.dir / "creds").mkdir(parents=True)
        (self.dir / "creds/model-key").write_bytes(key)
        (self.dir / "creds/manifest-sha256").write_text("none")
        self.env = {"PATH": os.environ["PATH"], "TB_CONTRACT_ID": "c", "TB_ASSET_ID": "bench", "TB_EDC_ENDPOINT": "https://localhost",
                    "TB_TARGET_DIR": str(work / "target"), "TB_RUN_DIR": str(self.dir), "TB_STATE_DIR": str(self.dir / "state"),
                    "TB_READY_SIGNAL": str(self.dir / "weights/ready.signal"), "TB_MODEL_DIR": str(self.dir / "model"),
                    "TB_DELIVERY": mode, "HOME": os.environ.get("HOME", "/root"), "TMPDIR": str(self.dir)}
        for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES"):
            if name in os.environ:
                self.env[name] = os.environ[name]
        self.bin, self.out = pathlib.Path(a.bin), str(self.dir / "out.json")
        self.decrypt = self.load = None

    def log(self, name):
        return (self.dir / name).read_text(errors="replace")[-2000:] if (self.dir / name).exists() else ""

    def start(self, *runtime_args):
        me = os.path.abspath(__file__)
        command = " ".join([sys.executable, me, "--runtime", *runtime_args[:1], "{model}", self.out, *runtime_args[1:]])
        self.decrypt = subprocess.Popen([self.bin / "tb-decrypt"], env={**self.env, "CREDENTIALS_DIRECTORY": str(self.dir / "creds")},
                                        stdout=open(self.dir / "decrypt.log", "wb"), stderr=subprocess.STDOUT)
        wait_for(lambda: (self.dir / "tb-decrypt.sock").exists() or self.decrypt.poll() is not None, 20)
        self.started = time.monotonic()
        self.load = subprocess.Popen([self.bin / "tb-load"], env={**self.env, "TB_RUNTIME_EXEC": command},
                                     stdout=open(self.dir / "load.log", "wb"), stderr=subprocess.STDOUT)

    def result(self, timeout=120):
        used = 0
        end = time.monotonic() + timeout
        while not os.path.exists(self.out):
            if self.decrypt.poll() is None:
                used = max(used, cpu_of(self.decrypt.pid))
            if self.load.poll() is not None or time.monotonic() > end:
                time.sleep(0.2)
                if os.path.exists(self.out):
                    break
                raise RuntimeError(f"tb-load ended with {self.load.poll()}:\n{self.log('load.log')}\n{self.log('decrypt.log')}")
            time.sleep(0.01)
        facts = json.loads(pathlib.Path(self.out).read_text())
        facts["server_cpu_s"] = round(used, 2)
        facts["mode"] = json.loads((self.dir / "tb-runtime/delivery.json").read_text())["mode"]
        return facts

    def close(self):
        for p in (self.load, self.decrypt):
            if p and p.poll() is None:
                p.terminate()
                try:
                    p.wait(10)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def wait_for(fn, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if fn():
            return True
        time.sleep(0.01)
    raise RuntimeError("timed out")


def plain(a, model, loader, work, n):
    out = str(work / f"plain-{n}.json")
    r = subprocess.run([sys.executable, os.path.abspath(__file__), "--runtime", loader, str(model), out, a.device], capture_output=True,
                       text=True, timeout=180)
    if r.returncode != 0:
        raise RuntimeError(r.stderr[-2000:])
    return json.loads(pathlib.Path(out).read_text())


def measure(a, work, model, key):
    results, n = [], 0
    for round_ in range(a.rounds):
        for loader in ("direct", "safetensors"):
            for source in ("plain", "dir", "view"):
                n += 1
                row = {"round": round_, "loader": loader, "source": source}
                try:
                    if source == "plain":
                        row.update(plain(a, model, loader, work, n))
                    else:
                        c = Chain(a, work, key, source, n)
                        try:
                            c.start(loader, a.device)
                            row.update(c.result())
                            # From the start of tb-load to the last byte on the device, without the runtime's own start.
                            row["delivery_s"] = json.loads((c.dir / "tb-decrypt/progress.json").read_text()).get("seconds")
                            row["start_to_begin_s"] = round(row["begun"] - c.started, 3)
                        finally:
                            c.close()
                except Exception as e:
                    row["error"] = str(e)[-1500:]
                row.pop("begun", None), row.pop("ended", None)
                results.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return results


def delivery_seconds(a, work, key):
    """How long each mode takes until the runtime runs: the runtime writes the time and ends."""
    out = {}
    for i, mode in enumerate(("dir", "view")):
        c = Chain(a, work, key, mode, 900 + i)
        try:
            c.start("clock")
            facts = c.result()
            out[mode] = {"seconds": round(facts["now"] - c.started, 3), "server_cpu_s": facts["server_cpu_s"], "mode": facts["mode"]}
        except Exception as e:
            out[mode] = {"error": str(e)[-1500:]}
        finally:
            c.close()
    return out


def revocation(a, work, key):
    c = Chain(a, work, key, "view", 990)
    try:
        c.start("map")
        wait_for(lambda: os.path.exists(c.out + ".touched") or c.load.poll() is not None, 120)
        t = time.monotonic()
        c.decrypt.terminate()
        facts = c.result()
        return {"seconds_to_signal": round(facts["died"] - t, 3), "signal": facts["signal"], "pread_after": facts["pread_after"],
                "locked": facts["locked"], "tb_decrypt_rc": c.decrypt.wait(10)}
    except Exception as e:
        return {"error": str(e)[-1500:]}
    finally:
        c.close()


def run_runtime(argv):
    what, model, out = argv[:3]
    if what == "clock":
        write(out, json.dumps({"now": time.monotonic()}))
    elif what == "map":
        mapper(model, out)
    else:
        runtime(what, model, out, argv[3])
    return 0


def main():
    if sys.argv[1:2] == ["--runtime"]:
        return run_runtime(sys.argv[2:])
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--gib", type=float, default=8)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--work", default="/dev/shm/tb-gpu")
    p.add_argument("--cpu", action="store_true")
    a = p.parse_args()
    a.device, work = "cpu" if a.cpu else "cuda:0", pathlib.Path(a.work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, parents=True)
    try:
        t = time.monotonic()
        n = make_model(work / "plain", a.gib, a.device)
        made = time.monotonic()
        (work / "target").mkdir()
        r = subprocess.run([pathlib.Path(a.bin) / "tbpkg", "encrypt", "--asset-id", "bench", "--chunk-bytes", "1M", "--out",
                            str(work / "target/model.tbenc"), "--manifest", str(work / "target/model.manifest.json"), "--key-out",
                            str(work / "key"), str(work / "plain")], capture_output=True, text=True)
        if r.returncode != 0:
            raise SystemExit(r.stderr)
        sealed = time.monotonic()
        key = bytes.fromhex((work / "key").read_text().strip())
        report = {"model_bytes": n, "make_s": round(made - t, 1), "seal_s": round(sealed - made, 1), "cpus": os.cpu_count(),
                  "kernel": os.uname().release, "fuse": os.path.exists("/dev/fuse")}
        report["delivery"] = delivery_seconds(a, work, key)
        report["loads"] = measure(a, work, work / "plain", key)
        sums = {r.get("checksum") for r in report["loads"] if "error" not in r}
        report["same_everywhere"] = len(sums) == 1
        report["revocation"] = revocation(a, work, key)
        report["total_s"] = round(time.monotonic() - t, 1)
        print(json.dumps(report, indent=1))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
