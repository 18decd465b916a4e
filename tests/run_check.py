#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make check`: builds, then runs every kind of test and closes with one line `N passed, N failed, N skipped`.

usage: run_check.py [--fast] [--only STAGE[,STAGE...]]
Stages: see STAGES, ALONE, LATER and NAMED below. --fast is lint, unit and integration. `--only vm` is vm and every vm-NAME, and so with others.
vm boots machines of Debian 12 from the packages; of another Debian with TB_VM_SUITE=trixie.
Stages run side by side, as some compute and some wait; then the tests that measure time (marked alone); then what a machine that is slow or busy
can do without, of which no stage begins after 55 minutes: it is skipped, and said. Of the others none begins after 65, and no test of them after
75: it has failed, or been skipped where it can be done without; after 83 all end. A stage that cannot even build counts as one failure.
A test of pytest that failed has failed. To tell what to look for, its file is run once more, alone, when the others are done, and its line at the
end says whether it passed then; more than eight such files are not run again. The whole log of each stage is in build/check/. V=1 prints the twenty slowest tests."""

import argparse
import concurrent.futures
import contextlib
import ctypes
import fnmatch
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

from plugin.deadline import LATE

REPO = pathlib.Path(__file__).resolve().parents[1]
OUT = REPO / "build" / "check"
FUZZ_SECONDS = 30  # all fuzzers together
UNIT_SECONDS = 900  # of one unit test: a property of money takes a minute with the sanitizers, and five beside much else
ONCE_MORE_FILES = 8  # of which a test failed; where there are more none is run once more
REASON_CHARS = 200  # of why a test failed, on its line at the end
STAGE_SECONDS = 4500  # the limit of one program: twice what the longest takes on two idle processors, and then some
# Of the whole, for machines that are slow or busy: no stage begins later than that, and no test of pytest, and nothing goes on for longer: whoever
# waits for the end, as CI does, hears what failed rather than nothing.
BEGIN_SECONDS, LAST_TEST_SECONDS, END_SECONDS = 3900, 4500, 5000
SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
# Unit tests of the control plane that test_controlplane_store.py runs once more.
ON_POSTGRESQL = ("test_store", "test_assets", "test_machines", "test_usage", "test_admin", "test_submitter")
CPUS = len(os.sched_getaffinity(0))
STAGES_AT_ONCE = CPUS + 1  # a machine keeps one processor busy, or two while it boots; what waits for it costs nothing
WORKERS = CPUS + 4  # of one pytest: its tests wait for timers and for each other's programs most of the time
# A file's tests stay together, in their order: some files share a server, some are a story. pytest-xdist 3.1 has no work stealing.
PARALLEL = ["-n", str(WORKERS), "--dist", "loadfile", "-m", "not alone"]

# With the sanitizers `make check` has the files in which a program reads what a stranger sends, or threads share memory with a reader; the unit
# tests have it all. `make check-asan` has the others: most start a program hundreds of times, and its start is what takes the time then.
ASAN_PATTERNS = ("proxy_*", "hydrate_*", "delivery_*", "follow*", "controlplane_hostile", "controlplane_tls", "listeners", "provision", "tbpkg_damage",
                 "view_*", "mend", "mend_*", "decrypt_clients")
INTEGRATION = {p.stem.removeprefix("test_"): f"tests/integration/{p.name}" for p in sorted((REPO / "tests/integration").glob("test_*.py"))}
ASAN = [path for name, path in INTEGRATION.items() if any(fnmatch.fnmatch(name, pattern) for pattern in ASAN_PATTERNS)]
ASAN_REST = [path for path in INTEGRATION.values() if path not in ASAN]

MAKE, PRINT = threading.Lock(), threading.Lock()
RUNNING, STOPPED = set(), threading.Event()  # what run() has started; by Ctrl-C, nothing begins after it
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
BEGIN_UNTIL = LAST_TEST_AT = END_AT = float("inf")
CPU_TIME = {}  # seconds of what a thread ran; {thread}


def say(*lines):
    with PRINT:
        print(*lines, sep="\n", flush=True)


class Tally:
    """What became of one stage. Added up for the closing line."""

    def __init__(self):
        self.passed, self.failures, self.skips = 0, [], []
        self.good, self.bad = set(), {}  # tests of pytest; {test: (what is said of it, file, how)}
        self.again = None  # runs a file of it once more
        self.took = []  # (seconds, test)

    def fail(self, what, text="", lines=40):
        self.failures.append(what)
        say(f"  FAILED {what}", *("    " + line for line in text.splitlines()[-lines:]))


def apart():
    """A session of its own: where the kernel shares the processors by session (sched(7), autogroup), all stages together would have the share of one
    program that a test starts as a unit. No larger one than such a program: machines in QEMU that wait burn more time than the others gain."""
    os.setsid()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def run(argv, log, env=None, timeout=STAGE_SECONDS):
    """Runs argv with its output in OUT/log; returns (exit code, output)."""
    if STOPPED.is_set():
        return 130, ""
    begin = time.monotonic()
    path, end, signals = OUT / log, min(begin + timeout, END_AT), [signal.SIGKILL, signal.SIGINT]
    with open(path, "wb") as f:
        p = subprocess.Popen(argv, cwd=REPO, stdout=f, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, preexec_fn=apart)
        RUNNING.add(p)
        # Not Popen.wait(), which does not tell what it and all that it waited for took of the processors.
        while not (ended := os.wait4(p.pid, os.WNOHANG))[0]:
            if time.monotonic() > end and signals:
                os.kill(p.pid, signals.pop())  # pytest then says what failed until now
                end += 240  # xdist waits for its workers first
            time.sleep(0.05)
        p.returncode = os.waitstatus_to_exitcode(ended[1])
        RUNNING.discard(p)
        if late := len(signals) < 2:
            f.write(f"\nended after {time.monotonic() - begin:.0f} s: it may take {timeout}, and all stages {END_SECONDS}\n".encode())
        CPU_TIME[threading.get_ident()] = CPU_TIME.get(threading.get_ident(), 0) + ended[2].ru_utime + ended[2].ru_stime
    return 124 if late else p.returncode, path.read_text(errors="replace")


def make(tally, what, *args):
    with MAKE:
        rc, text = run(["make", f"-j{CPUS}", *args], f"build-{what}.log")
    if rc != 0:
        tally.fail(f"{what}: make {' '.join(args)}", text)
    return rc == 0


def stop():
    """What runs hears of Ctrl-C by this: it is in sessions of its own."""
    STOPPED.set()
    for p in list(RUNNING):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGINT)


def after(seconds, what):
    return f"{LATE}, as {seconds // 60} minutes were over; for the stage alone: /usr/bin/python3 tests/run_check.py --only {what}"


def lint(tally, what):
    rc, text = run(["make", "lint"], "lint.log")
    if rc != 0:
        tally.fail("lint", text)
    else:
        tally.passed += 1


def units(tally, what, build="build", san=False):
    if not make(tally, what, "units", *(["SAN=1"] if san else [])):
        return
    for src in sorted((REPO / "tests/unit").glob("*/test_*.c")):
        name = f"{src.parent.name}/{src.stem}"
        start = time.monotonic()
        rc, text = run([str(REPO / build / "unit" / name)], f"{what}-{name.replace('/', '-')}.log", SANITIZERS if san else None, UNIT_SECONDS)
        tally.took.append((time.monotonic() - start, f"{what} {name}"))
        good = int(m[1]) if (m := re.search(r"\[  PASSED  \] (\d+) test", text)) else 0
        bad = [f": {test}" for test in sorted(set(re.findall(r"^\[  FAILED  \] (\w+)$", text, re.M)))]
        tally.passed += good
        tally.skips += [f"{what} {name} {test}" for test in sorted(set(re.findall(r"^\[  SKIPPED \] (\w+)$", text, re.M)))]
        if (rc != 0 and not bad) or (rc == 0 and good == 0):
            bad.append(f": exit {rc}")
        for b in bad:
            tally.fail(f"{what} {name}{b}", text if b == bad[-1] else "")


def outcomes(xml):
    """Of each test in pytest's report: (name, file, seconds, outcome, message, text), with the element's name for the outcome, "" when it passed."""
    for case in ET.parse(xml).getroot().iter("testcase") if xml.exists() else []:
        how = next((e for kind in ("error", "failure", "skipped") if (e := case.find(kind)) is not None), None)
        module, test = case.get("classname", ""), case.get("name")
        yield (f"{module.rsplit('.', 1)[-1]}::{test}", module.replace(".", "/") + ".py", float(case.get("time", 0)),
               *(("", "", "") if how is None else (how.tag, how.get("message") or "", how.text or "")))


def pytests(tally, what, args, build="build", san=False):
    # some of the integration tests run a unit test on another database
    more = [f"{build}/unit/controlplane/{t}" for t in ON_POSTGRESQL] if any(str(a).startswith("tests/integration") for a in args) else []
    if not make(tally, what, "all", *more, *(["SAN=1"] if san else [])):
        return
    xml = OUT / f"{what}.xml"
    xml.unlink(missing_ok=True)
    env = {"TB_BUILD": str(REPO / build), "TB_PATIENCE": "8", "TB_BEGIN_UNTIL": str(END_AT if what in ALONE else LAST_TEST_AT),
           "PYTHONPATH": str(REPO / "tests/plugin"), **(SANITIZERS if san else {})}
    rc, text = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "deadline", f"--junitxml={xml}", *args], f"{what}.log", env)
    late = 0
    for test, file, seconds, outcome, message, trace in outcomes(xml):
        tally.took.append((seconds, f"{what} {test}"))
        if outcome == "error" and LATE in message:
            late += 1
        elif outcome == "skipped":
            tally.skips.append(f"{what} {test}: {message}")
        elif outcome:
            tally.bad[test] = (f"{what} {test}: {(message.splitlines() or [''])[0][:REASON_CHARS]}", file, trace)
        else:
            tally.passed += 1
            tally.good.add(test)
    (tally.skips if what in LATER else tally.failures).extend([f"{what}: {late} tests: {after(LAST_TEST_SECONDS, what)}"] * late)
    if rc != 0 and not tally.bad and not late:
        tally.fail(f"{what}: pytest exit {rc}", text, 120)
    for test, (failure, _, trace) in tally.bad.items():
        tally.fail(failure, *((text, 120) if test == list(tally.bad)[-1] else (trace, 40)))
    tally.again = lambda second, file: pytests(second, f"{what}-again", [file, *(["-m", args[args.index("-m") + 1]] if "-m" in args else [])], build, san)


def once_more(tallies):
    """What failed beside much else is run once more with nothing beside it, the whole file, as some are a story. It has failed all the same: its line
    at the end says whether it passes alone. Not when much failed: that is no matter of a busy machine."""
    files = [(tally, file) for tally in tallies for file in dict.fromkeys(file for _, file, _ in tally.bad.values())]
    if len(files) > ONCE_MORE_FILES:
        return
    for tally, file in files:
        if STOPPED.is_set() or time.monotonic() > LAST_TEST_AT or not (REPO / file).exists():
            continue
        tally.again(second := Tally(), file)
        for test, (failure, of, _) in tally.bad.items():
            if of == file and test in second.good - set(second.bad):
                tally.failures[tally.failures.index(failure)] = f"{failure}; passed once more, alone"
        say(f"== once more, alone: {file}: {second.passed} passed, {len(second.failures)} failed")


def fuzz(tally, what):
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
            tally.fail(f"fuzz {name}: exit {rc}, input kept in build/check/", text)


def stage(fn, *args, **kw):
    return lambda tally, name: fn(tally, name, *args, **kw)


VM = "e2e-vagrant/tests/vm"
VM_APART = ("test_container.py", "test_custom_data.py", "test_operator_guide.py", "test_power.py", "test_scratch.py", "test_unconfigured.py",
            "test_versions.py", "test_versions_power.py")  # machines of their own
# In the order in which they begin: what takes long first, so that none is left over.
STAGES = {
    "integration": stage(pytests, ["tests/integration", *PARALLEL]),
    "vm": stage(pytests, [VM, *(f"--ignore={VM}/{name}" for name in VM_APART)]),
    "unit": stage(units),
    "lint": lint,
    "e2e": stage(pytests, ["e2e-vagrant/tests", *PARALLEL]),
    "packages": stage(pytests, ["tests/packaging", "--ignore=tests/packaging/test_smoke.py"]),
    "azure": stage(pytests, ["tests/azure", *PARALLEL]),
    "packer": stage(pytests, ["tests/packer", "--ignore=tests/packer/test_image.py"]),
    "browser": stage(pytests, ["tests/browser"]),
    "fuzz": fuzz,
}
# One after the other, when those are done.
ALONE = {"integration-alone": stage(pytests, ["tests/integration", "-m", "alone"])}
# Side by side, in the time that is left.
LATER = {
    "vm-power": stage(pytests, [f"{VM}/test_power.py"]),
    "vm-packages": stage(pytests, [f"{VM}/test_unconfigured.py", "tests/packaging/test_smoke.py"]),
    "vm-scratch": stage(pytests, [f"{VM}/test_scratch.py", f"{VM}/test_custom_data.py"]),
    "asan-unit": stage(units, "build/asan", True),
    "asan-integration": stage(pytests, [*ASAN, *PARALLEL], "build/asan", True),
    "vm-versions": stage(pytests, [f"{VM}/test_versions.py"]),
    "vm-container": stage(pytests, [f"{VM}/test_container.py"]),
}
# By their own name only, see the Makefile.
NAMED = {
    "asan-integration-rest": stage(pytests, [*ASAN_REST, *PARALLEL], "build/asan", True),
    "asan-integration-alone": stage(pytests, ["tests/integration", "-m", "alone"], "build/asan", True),
    "vm-guide": stage(pytests, [f"{VM}/test_operator_guide.py"]),
    "vm-versions-power": stage(pytests, [f"{VM}/test_versions_power.py"]),
}


def timed(name):
    tally, start, me = Tally(), time.monotonic(), threading.get_ident()
    sooner = 600 if name in LATER else 0
    if start > BEGIN_UNTIL - sooner and name not in ALONE:
        tally.skips.append(f"{name}: {after(BEGIN_SECONDS - sooner, name)}")
        return tally
    CPU_TIME[me] = 0
    {**STAGES, **ALONE, **LATER, **NAMED}[name](tally, name)
    skipped = f", {len(tally.skips)} skipped" if tally.skips else ""
    say(f"== {name}: {tally.passed} passed, {len(tally.failures)} failed{skipped} in {time.monotonic() - start:.0f} s, "
        f"{CPU_TIME[me]:.0f} s of processors")
    return tally


def chosen(args):
    """The names of the stages to run."""
    every = [*STAGES, *ALONE, *LATER]
    only = ["lint", "unit", "integration"] if args.fast else args.only.split(",") if args.only else every
    if unknown := set(only) - {*every, *NAMED}:
        sys.exit(f"run_check.py: no stage {', '.join(sorted(unknown))}; there are {', '.join([*every, *NAMED])}")
    return [name for name in every if any(name == o or name.startswith(f"{o}-") for o in only)] + [name for name in NAMED if name in only]


def main():
    ap = argparse.ArgumentParser(description="TrustBridge test runner")
    ap.add_argument("--fast", action="store_true")
    ap.add_argument("--only")
    stages, start = chosen(args := ap.parse_args()), time.monotonic()
    if not args.only and not args.fast:
        global BEGIN_UNTIL, LAST_TEST_AT, END_AT
        whole = start - max(0, time.time() - float(os.environ.get("TB_CHECK_BEGAN", time.time())))  # with what make installed first
        BEGIN_UNTIL, LAST_TEST_AT, END_AT = (whole + seconds for seconds in (BEGIN_SECONDS, LAST_TEST_SECONDS, END_SECONDS))
    OUT.mkdir(parents=True, exist_ok=True)
    # Whoever starts this in the background has it ignore SIGINT, or SIGHUP by nohup, and that would be inherited by all that tests end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if stages != ["lint"]:
        run(["make", f"-j{CPUS}", "all"], "build.log")  # of which a test makes an installation; what fails to build is said by the stages
    with concurrent.futures.ThreadPoolExecutor(STAGES_AT_ONCE) as pool:
        try:
            tallies = list(pool.map(timed, [name for name in stages if name in STAGES]))
            tallies += map(timed, [name for name in stages if name in ALONE])
            once_more(tallies)
            tallies += (later := list(pool.map(timed, [name for name in stages if name in LATER or name in NAMED])))
            once_more(later)
        except KeyboardInterrupt:
            stop()
            raise
    if os.environ.get("V") == "1":
        print("the slowest tests:")
        for seconds, name in sorted((t for tally in tallies for t in tally.took), reverse=True)[:20]:
            print(f"  {seconds:6.1f} s  {name}")
    for tally in tallies:
        for s in dict.fromkeys(tally.skips):
            print(f"skipped: {s}")
    for tally in tallies:
        for f in dict.fromkeys(tally.failures):
            print(f"FAILED: {f}")
    passed, failed, skipped = (sum(n) for n in zip(*((t.passed, len(t.failures), len(t.skips)) for t in tallies)))
    print(f"all stages took {time.monotonic() - start:.0f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
