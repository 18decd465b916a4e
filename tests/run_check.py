#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make check`: builds, then runs every kind of test and closes with one line `N passed, N failed, N skipped`.

usage: run_check.py [--fast] [--only STAGE[,STAGE...]]
Stages: see STAGES below. --fast is lint, unit and integration.
vm boots machines of Debian 12 from the packages; of another Debian with TB_VM_SUITE=trixie.
A stage that cannot even build counts as one failure. The whole log of each stage is in build/check/."""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

REPO = pathlib.Path(__file__).resolve().parents[1]
OUT = REPO / "build" / "check"
FUZZ_SECONDS = 30  # all fuzzers together
ASAN = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures, self.skips = [], []

    def fail(self, what):
        self.failed += 1
        self.failures.append(what)
        print(f"  FAILED {what}", flush=True)

    def skip(self, what):
        self.skipped += 1
        self.skips.append(what)


def run(argv, log, env=None, timeout=3000):
    """Runs argv with its output in OUT/log; returns (exit code, output)."""
    path = OUT / log
    with open(path, "wb") as f:
        try:
            rc = subprocess.run(argv, cwd=REPO, stdout=f, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
                                stdin=subprocess.DEVNULL, timeout=timeout).returncode
        except subprocess.TimeoutExpired:
            f.write(f"\ntimed out after {timeout} s\n".encode())
            rc = 124
    return rc, path.read_text(errors="replace")


def tail(text, n=40):
    print("\n".join("    " + line for line in text.splitlines()[-n:]), flush=True)


def make(tally, what, *args):
    rc, text = run(["make", "-j2", *args], f"build-{what}.log")
    if rc != 0:
        tally.fail(f"{what}: make {' '.join(args)}")
        tail(text)
    return rc == 0


def lint(tally):
    rc, text = run(["make", "lint"], "lint.log")
    if rc != 0:
        tally.fail("lint")
        tail(text)
    else:
        tally.passed += 1


def units(tally, build, san):
    what = "asan-unit" if san else "unit"
    if not make(tally, what, "units", *(["SAN=1"] if san else [])):
        return
    for src in sorted((REPO / "tests/unit").glob("*/test_*.c")):
        name = f"{src.parent.name}/{src.stem}"
        rc, text = run([str(REPO / build / "unit" / name)], f"{what}-{name.replace('/', '-')}.log", ASAN if san else None, 300)
        good = int(m[1]) if (m := re.search(r"\[  PASSED  \] (\d+) test", text)) else 0
        bad = re.findall(r"^\[  FAILED  \] (\w+)$", text, re.M)
        skipped = re.findall(r"^\[  SKIPPED \] (\w+)$", text, re.M)
        tally.passed += good
        for s in set(skipped):
            tally.skip(f"{what} {name} {s}")
        for b in sorted(set(bad)):
            tally.fail(f"{what} {name}: {b}")
        if (rc != 0 and not bad) or (rc == 0 and good == 0):
            tally.fail(f"{what} {name}: exit {rc}")
        if rc != 0:
            tail(text)


def pytests(tally, what, folder, build, san):
    if not make(tally, what, "all", *(["SAN=1"] if san else [])):
        return
    xml = OUT / f"{what}.xml"
    xml.unlink(missing_ok=True)
    env = {"TB_BUILD": str(REPO / build), **(ASAN if san else {})}
    rc, text = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=15", f"--junitxml={xml}", *folder.split()],
                   f"{what}.log", env)
    if not xml.exists():
        tally.fail(f"{what}: pytest exit {rc}")
        tail(text)
        return
    for case in ET.parse(xml).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            tally.fail(f"{what} {name}")
        elif skipped is not None:
            tally.skip(f"{what} {name}: {skipped.get('message')}")
        else:
            tally.passed += 1
    if rc != 0:
        tail(text, 120)


def fuzz(tally):
    if not make(tally, "fuzz", "fuzz"):
        return
    fuzzers = sorted((REPO / "tests/fuzz").glob("*/fuzz_*.c"))
    seconds = max(1, FUZZ_SECONDS // max(1, len(fuzzers)))
    for src in fuzzers:
        name = f"{src.parent.name}/{src.stem}"
        found = OUT / "corpus" / src.stem
        found.mkdir(parents=True, exist_ok=True)
        corpus = REPO / "tests/fuzz/corpus" / src.stem
        argv = [str(REPO / "build/fuzz" / name), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=4096", "-close_fd_mask=1",
                f"-artifact_prefix={OUT}/crash-{src.stem}-", str(found)] + ([str(corpus)] if corpus.is_dir() else [])
        rc, text = run(argv, f"fuzz-{src.stem}.log", timeout=seconds + 120)
        if rc == 0:
            tally.passed += 1
        else:
            tally.fail(f"fuzz {name}: exit {rc}, input kept in build/check/")
            tail(text)


STAGES = {
    "lint": lint,
    "unit": lambda t: units(t, "build", False),
    "integration": lambda t: pytests(t, "integration", "tests/integration", "build", False),
    "browser": lambda t: pytests(t, "browser", "tests/browser", "build", False),
    "azure": lambda t: pytests(t, "azure", "tests/azure", "build", False),
    "e2e": lambda t: pytests(t, "e2e", "e2e-vagrant/tests", "build", False),
    "packages": lambda t: pytests(t, "packages", "tests/packaging --ignore=tests/packaging/test_smoke.py", "build", False),
    "vm": lambda t: pytests(t, "vm", "e2e-vagrant/tests/vm tests/packaging/test_smoke.py", "build", False),
    "packer": lambda t: pytests(t, "packer", "tests/packer --ignore=tests/packer/test_image.py", "build", False),
    "fuzz": fuzz,
    "asan-unit": lambda t: units(t, "build/asan", True),
    "asan-integration": lambda t: pytests(t, "asan-integration", "tests/integration", "build/asan", True),
}


def main():
    ap = argparse.ArgumentParser(description="TrustBridge test runner")
    ap.add_argument("--fast", action="store_true")
    ap.add_argument("--only")
    args = ap.parse_args()
    stages = args.only.split(",") if args.only else ["lint", "unit", "integration"] if args.fast else list(STAGES)
    OUT.mkdir(parents=True, exist_ok=True)
    # Whoever starts this in the background has it ignore SIGINT, or SIGHUP by nohup, and that would be inherited by all that tests end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    tally = Tally()
    for name in stages:
        before, start = (tally.passed, tally.failed), time.monotonic()
        print(f"== {name}", flush=True)
        STAGES[name](tally)
        print(f"   {tally.passed - before[0]} passed, {tally.failed - before[1]} failed in {time.monotonic() - start:.0f} s",
              flush=True)
    for s in tally.skips:
        print(f"skipped: {s}")
    for f in tally.failures:
        print(f"FAILED: {f}")
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped", flush=True)
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
