#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Cold start over https at 320 MB/s: nginx is in a network namespace behind a veth pair with tbf. Each round has every row and its peer once;
medians of the rounds' ratios, beside the goals.

cold    from the start of tb-hydrate until the runtime, started by tb-load, has read the last plaintext byte, against curl to /dev/null: view
        <= 1.03 x, dir <= 1.10 x; the first byte of a view <= 0.3 s. CPU of tb-hydrate <= 1.3 x curl -o onto the same disk, with two threads
        <= 1.1 x of one. In mode dir the runtime starts when all is decrypted: its first byte says nothing of when the first was there.
damage  8 records of what the first place sends are damaged: how much is fetched beyond the model (goal: 8 records at most), what the runtime read
llama   llama-server answers 200 to /health, against the time of curl and llama-server's own on a plain file in tmpfs: <= 1.03 x

    cold_start.py [--mib 1024] [--runs 3] [--rate 2560mbit] [--only cold,damage,llama]     as root"""
import argparse
import http.client
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e-vagrant/lib"), str(ROOT / "tests/integration")]
from delivery_asset import ASSET  # noqa: E402  pylint: disable=wrong-import-position
from delivery_rig import Rig  # noqa: E402  pylint: disable=wrong-import-position
import model as llama  # noqa: E402  pylint: disable=wrong-import-position
from tbsys import CA, free_port, program, wait_for  # noqa: E402  pylint: disable=wrong-import-position

NET, SERVER = "10.213.7", "10.213.7.2"
RECORD, DAMAGED = (1 << 20) + 20, 8
READER = ROOT / "build/bench/reader"
LLAMA_SIZE = "--layers", 8, "--embd", 2048, "--ff", 5632, "--heads", 16  # 822 MB
NGINX = """daemon off; user root; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1; events {{ worker_connections 256; }}
http {{ log_format sent '$uri $body_bytes_sent'; access_log {dir}/sent sent; sendfile on; tcp_nopush on; keepalive_requests 100000;
client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
server {{ listen {ip}:443 ssl; ssl_certificate {cert}; ssl_certificate_key {key}; root {dir}/www; }} }}
"""


def sh(*argv):
    subprocess.run([str(a) for a in argv], check=True)


class Link:
    def __init__(self, rate):
        self.name = "tbbench%d" % os.getpid()
        ends = "tbb%da" % os.getpid(), "tbb%db" % os.getpid()
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.name)
        sh("ip", "addr", "add", NET + ".1/24", "dev", ends[0])
        sh("ip", "link", "set", ends[0], "up")
        self.inside("ip", "addr", "add", SERVER + "/24", "dev", ends[1])
        self.inside("ip", "link", "set", ends[1], "up")
        self.inside("tc", "qdisc", "add", "dev", ends[1], "root", "tbf", "rate", rate, "burst", "4mb", "latency", "50ms")

    def inside(self, *argv):
        sh("ip", "netns", "exec", self.name, *argv)

    def close(self):
        sh("ip", "netns", "del", self.name)


class Bench:
    def __init__(self, tmp, rate):
        self.tmp, self.www = tmp, tmp / "www"
        self.www.mkdir()
        self.ca, self.keys = CA(tmp / "ca"), {}
        cert, key = self.ca.issue("server", sans="IP:" + SERVER)
        conf = tmp / "nginx.conf"
        conf.write_text(NGINX.format(dir=tmp, ip=SERVER, cert=cert, key=key))
        self.link = Link(rate)
        self.nginx = subprocess.Popen(["ip", "netns", "exec", self.link.name, "nginx", "-c", conf])
        self.url = "https://%s/" % SERVER
        (self.www / "up").write_text("")
        wait_for(lambda: subprocess.run(self.curl_argv("/dev/null", "up"), check=False).returncode == 0, what="nginx")

    def put(self, name, plain):
        """Seals it. The files are what is large, not this process: it forks."""
        subprocess.run([program("tbpkg"), "encrypt", "-q", "--asset-id", ASSET, "--in", plain, "--out", self.www / f"{name}.tbenc", "--manifest",
                        self.www / f"{name}.manifest.json", "--key-out", self.tmp / f"{name}.key", "--chunk-bytes", "1MiB"], check=True)
        self.keys[name] = types.SimpleNamespace(key=bytes.fromhex((self.tmp / f"{name}.key").read_text().strip()))

    def curl_argv(self, to, name):
        return ["curl", "-sf", "--cacert", self.ca.cert, "-o", str(to), self.url + name]

    def curl(self, to, name="model"):
        """Seconds, and CPU seconds."""
        before, t = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(self.curl_argv(to, name + ".tbenc"), check=True)
        t, after = time.monotonic() - t, resource.getrusage(resource.RUSAGE_CHILDREN)
        return t, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start(self, rig, mode, command, name="model", places=None, **env):
        """The programs, each as soon as it may; and since when."""
        url = [self.url + (p or f"{name}.tbenc") + "?sig=x" for p in places or [None]]
        hydrate = rig.daemon([program("tb-hydrate")], env=rig.env(TB_CA_FILE=self.ca.cert, TB_DELIVERY=mode, **env), credentials={
            "sas-url": "\n".join(url).encode(), "manifest-url": "\n".join([f"{self.url}{name}.manifest.json?sig=x"] * len(url)).encode(),
            "manifest-sha256": b"none"})
        decrypt, load = rig.decrypt(self.keys[name]), rig.load(mode, command)
        begin = time.monotonic()
        decrypt.start()
        hydrate.start()
        wait_for(lambda: hydrate.notified("READY") or not hydrate.running(), every=0.002, what="tb-hydrate")
        load.start()
        return begin, hydrate, decrypt, load

    def cold(self, place, mode, threads=1, **kw):
        """Seconds to the first and to the last plaintext byte, CPU seconds of tb-hydrate, sum of what was read."""
        place.mkdir()
        rig = Rig(place)
        try:
            begin, hydrate, decrypt, load = self.start(rig, mode, f"{READER} read 1 {kw.pop('times', 1)} {{model}} {rig.out}",
                                                       TB_DOWNLOAD_THREADS=threads, **kw)
            # Reaped by its own pid, for its own CPU time.
            _, status, used = os.wait4(hydrate.pid, 0)
            hydrate.proc.returncode = os.waitstatus_to_exitcode(status)
            call = rig.run / "tb-decrypt/repair"
            while load.running():  # what tb-wish.path does
                if call.exists() and not hydrate.running():
                    call.unlink()
                    hydrate.start()
                time.sleep(0.005)
            assert hydrate.wait() == 0 and load.wait() == 0 and decrypt.wait(60) == 0, load.log_text() + decrypt.log_text()
            first, last, total = rig.out.read_text().split()
            return float(first) - begin, float(last) - begin, used.ru_utime + used.ru_stime, int(total)
        finally:
            rig.close()
            shutil.rmtree(place)

    def llama(self, place):
        """Seconds until llama-server is healthy on a view that comes over the link, and its answer."""
        place.mkdir()
        rig, port = Rig(place), free_port()
        try:
            begin, *_, load = self.start(rig, "view", llama.llama_command("{model}", port), "llama")
            return served(port, load.running) - begin, chat(port)
        finally:
            rig.close()
            shutil.rmtree(place)

    def close(self):
        self.nginx.terminate()
        self.nginx.wait()
        self.link.close()


def served(port, alive):
    """The time at which it answers 200 to /health."""
    def healthy():
        assert alive()
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            c.request("GET", "/health")
            return c.getresponse().status == 200
        except OSError:
            return False
        finally:
            c.close()
    wait_for(healthy, 120, "llama-server", every=0.01)
    return time.monotonic()


def chat(port):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", "/v1/chat/completions", json.dumps(llama.CHAT), {"Content-Type": "application/json"})
    return json.load(c.getresponse())["choices"][0]["message"]["content"]


def llama_alone(file):
    port = free_port()
    begin = time.monotonic()
    p = subprocess.Popen(llama.llama_command(file, port).split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return served(port, lambda: p.poll() is None) - begin, chat(port)
    finally:
        p.terminate()
        p.wait()


def row(what, value, goal, unit=""):
    print("%-44s %5.2f%-2s (goal <= %.2f)" % (what, value, unit, goal), flush=True)


def bench_cold(b, runs):
    rounds = []
    for i in range(runs):
        r = {"curl": b.curl("/dev/null")[0], "curl cpu": b.curl(b.tmp / "copy")[1]}
        (b.tmp / "copy").unlink()
        for mode, threads in (("dir", 1), ("view", 1), ("dir", 2)):
            r[mode, threads] = b.cold(b.tmp / f"{mode}{threads}-{i}", mode, threads)
            print("curl %.2f s; %s, %d threads: first %.2f s, last %.2f s; CPU: curl -o %.2f s, tb-hydrate %.2f s" % (
                r["curl"], mode, threads, *r[mode, threads][:2], r["curl cpu"], r[mode, threads][2]), flush=True)
        rounds.append(r)

    def median(fn):
        return statistics.median(map(fn, rounds))
    for mode, goal in (("view", 1.03), ("dir", 1.10)):
        row(mode + ", last plaintext byte / curl", median(lambda r: r[mode, 1][1] / r["curl"]), goal)
    row("view, first plaintext byte", median(lambda r: r["view", 1][0]), 0.3, " s")
    row("CPU of tb-hydrate / curl -o", median(lambda r: r["dir", 1][2] / r["curl cpu"]), 1.3)
    row("CPU with 2 threads / with 1", median(lambda r: r["dir", 2][2] / r["dir", 1][2]), 1.1)


def bench_damage(b, plain):
    """The second place has it as it should be: a record comes once more from the next one."""
    subprocess.run([READER, "read", "1", "2", plain, b.tmp / "sum"], check=True)
    want = int((b.tmp / "sum").read_text().split()[2])
    size, log = (b.www / "model.tbenc").stat().st_size, b.tmp / "sent"
    shutil.copy(b.www / "model.tbenc", b.www / "bad")
    with open(b.www / "bad", "r+b") as f:
        for i in range(DAMAGED):
            at = 32 + (size // RECORD * (2 * i + 1) // (2 * DAMAGED)) * RECORD + 4 + 65537 * (i + 1) % (1 << 20)
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 1]))
    os.truncate(log, 0)
    _, last, _, got = b.cold(b.tmp / "damage", "view", places=["bad", "model.tbenc"], times=2)
    sent = sum(int(line.split()[1]) for line in log.read_text().splitlines() if line.split()[0] in ("/bad", "/model.tbenc"))
    (b.www / "bad").unlink()
    row("%d damaged records, records fetched beyond" % DAMAGED, (sent - size) / RECORD, DAMAGED)
    print("what the runtime read, twice, is %sthe model; %.2f s" % ("" if got == want else "NOT ", last))


def bench_llama(b, runs):
    file = b.tmp / "llama.gguf"
    subprocess.run([sys.executable, ROOT / "e2e-vagrant/lib/mkgguf.py", file, *map(str, LLAMA_SIZE)], check=True, stdout=subprocess.DEVNULL)
    b.put("llama", file)
    copy = pathlib.Path(shutil.move(file, f"/dev/shm/tb-bench-llama-{os.getpid()}.gguf"))
    try:
        ratios = []
        for i in range(runs):
            link, (alone, said), (whole, answer) = b.curl("/dev/null", "llama")[0], llama_alone(copy), b.llama(b.tmp / f"llama-{i}")
            ratios.append(whole / (link + alone))
            print("llama-server healthy: link %.2f s, alone %.2f s, over the link %.2f s; %s" % (
                link, alone, whole, "the same answer" if answer == said else "ANOTHER ANSWER"), flush=True)
        row("llama-server healthy / (link + llama alone)", statistics.median(ratios), 1.03)
    finally:
        copy.unlink()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mib", type=int, default=1024)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--rate", default="2560mbit")
    p.add_argument("--only", default="cold,damage,llama")
    a = p.parse_args()
    print("load %.2f" % os.getloadavg()[0])
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="tb-bench-cold-") as d:
        tmp = pathlib.Path(d)
        b = Bench(tmp, a.rate)
        try:
            with open(tmp / "plain", "wb") as f:
                block = os.urandom(1 << 20)
                for _ in range(a.mib):
                    f.write(block)
            b.put("model", tmp / "plain")
            if "cold" in a.only:
                bench_cold(b, a.runs)
            if "damage" in a.only:
                bench_damage(b, tmp / "plain")
            if "llama" in a.only:
                bench_llama(b, a.runs)
        finally:
            b.close()


if __name__ == "__main__":
    main()
