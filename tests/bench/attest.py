#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a renewal with attestation costs: the control plane (evidence read, verified, key sealed; of one core, without TLS and database, which
controlplane.py measures) and the machine (tb-attest from its start to its answer, and its processor time; the TPM is swtpm, whose own is beside it).

    attest.py [--seconds 3] [--times 20]"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e-vagrant" / "lib"), str(ROOT / "tests" / "integration")]
from attest_rig import Attest, question  # noqa: E402  pylint: disable=wrong-import-position
from snp_rig import NV, Amd, Processor  # noqa: E402  pylint: disable=wrong-import-position
from software_tpm import GOOD, Tpm, authority, pem  # noqa: E402  pylint: disable=wrong-import-position


def cpu_of(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def machine(attest, tpm, times):
    """Medians in ms, and the last evidence."""
    walls, tpm_before, own_before = [], cpu_of(tpm.proc.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(times):
        begin = time.monotonic()
        evidence, rc = attest.ask(question())
        walls.append((time.monotonic() - begin) * 1e3)
        assert rc == 0, evidence
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = own.ru_utime + own.ru_stime - own_before.ru_utime - own_before.ru_stime
    return {"answer_ms": round(statistics.median(walls), 1), "tb_attest_cpu_ms": round(spent * 1e3 / times, 1),
            "tpm_cpu_ms": round((cpu_of(tpm.proc.pid) - tpm_before) * 1e3 / times, 1)}, evidence


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", default="3")
    p.add_argument("--times", type=int, default=20)
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        d = pathlib.Path(directory)
        issuer, amd = authority("Bench TPM CA"), Amd()
        cpu = Processor(amd)
        (d / "ca.pem").write_bytes(pem(issuer[0]))
        (d / "amd.pem").write_bytes(amd.pem())
        (d / "run/tb-vcek").mkdir(parents=True)
        (d / "run/tb-vcek/vcek.der").write_bytes(cpu.der)
        tpm = Tpm(d / "t", issuer).boot(GOOD)
        try:
            for level in ("tpm", "cvm"):
                if level == "cvm":
                    tpm.write_nv(NV, cpu.hcl(tpm.ak))
                cost, evidence = machine(Attest(d, tpm.path), tpm, o.times)
                (d / "evidence.json").write_text(json.dumps(evidence))
                n, us = subprocess.run([ROOT / "build/bench/attest_speed", d / "evidence.json", d / "ca.pem", d / "amd.pem", level, o.seconds],
                                       check=True, capture_output=True, text=True).stdout.split()
                print(json.dumps({"level": level, "evidence_bytes": len(json.dumps(evidence)), "controlplane_cpu_us": float(us),
                                  "a_second_and_core": round(1e6 / float(us)), "runs": int(n), "machine": cost}))
        finally:
            tpm.off()


if __name__ == "__main__":
    main()
