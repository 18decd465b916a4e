# SPDX-License-Identifier: Apache-2.0
"""How `make check` counts: what failed, what was skipped, and what a machine was too slow for."""

import importlib.util
import sys
import time

import pytest

import tbsys

TESTS = tbsys.repo / "tests"
CASES = """<testsuites><testsuite>
<testcase classname="tests.a.test_one" name="test_good" time="1"/>
<testcase classname="tests.a.test_one" name="test_odd" time="1"><skipped message="no such device"/></testcase>
{}</testsuite></testsuites>"""
FAILED = """<testcase classname="tests.a.test_one" name="test_bad[x]" time="1"><failure message="AssertionError: assert 76 == 0&#10;more">a
traceback</failure></testcase>"""
BROKEN = '<testcase classname="tests.a.test_one" name="test_broken"><error message="failed on setup with &quot;OSError&quot;">another</error></testcase>'
LATE = '<testcase classname="tests.a.test_one" name="test_{}"><error message="failed on setup with &quot;Failed: {}&quot;">late</error></testcase>'


@pytest.fixture
def check(monkeypatch, tmp_path):
    """The module, which starts nothing: what its pytest would have left is in `check.cases`."""
    monkeypatch.syspath_prepend(str(TESTS))
    spec = importlib.util.spec_from_file_location("run_check", TESTS / "run_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.OUT, module.cases, module.rc, module.ran = tmp_path, "", 1, []

    def run(argv, log, env=None, timeout=0):
        if xml := [a.partition("=")[2] for a in argv if a.startswith("--junitxml=")]:
            module.ran.append(argv[argv.index(f"--junitxml={xml[0]}") + 1:])
            (tmp_path / xml[0]).write_text(CASES.format(module.cases))
        return (module.rc if xml else 0), "the end of the log"
    module.run = run
    yield module
    sys.modules.pop("plugin", None), sys.modules.pop("plugin.deadline", None)


def test_a_failure_says_why_on_the_line_at_the_end(check, capsys):
    check.cases = FAILED + BROKEN
    tally = check.timed("azure")
    assert tally.failures == ["azure test_one::test_bad[x]: AssertionError: assert 76 == 0", 'azure test_one::test_broken: failed on setup with "OSError"']
    assert (tally.passed, tally.skips) == (1, ["azure test_one::test_odd: no such device"])
    said = capsys.readouterr().out
    assert "    traceback" in said and "    the end of the log" in said and "== azure: 1 passed, 2 failed, 1 skipped in" in said


def test_a_pytest_that_says_nothing_has_failed(check):
    assert check.timed("azure").failures == ["azure: pytest exit 1"]
    check.rc = 0
    assert check.timed("azure").failures == []


def test_what_failed_is_run_once_more_alone(check):
    """With its file, and once. It has failed, and its line says that it passes alone."""
    check.cases = (FAILED + BROKEN).replace("tests.a.test_one", "tests.integration.test_run_check")
    tally = check.timed("integration-alone")
    check.cases = BROKEN.replace("tests.a.test_one", "tests.integration.test_run_check") + \
        '<testcase classname="tests.integration.test_run_check" name="test_bad[x]"/>'
    check.ran.clear()
    check.once_more([tally])
    assert check.ran == [["tests/integration/test_run_check.py", "-m", "alone"]]
    assert tally.failures == ["integration-alone test_run_check::test_bad[x]: AssertionError: assert 76 == 0; passed once more, alone",
                              'integration-alone test_run_check::test_broken: failed on setup with "OSError"'] and tally.passed == 1


def test_what_does_not_end_well_alone_has_failed(check):
    """It fails again, is skipped then, or pytest does not come to it."""
    bad = FAILED.replace("tests.a.test_one", "tests.integration.test_run_check")
    for then in (bad, bad.replace("failure", "skipped"), ""):
        check.cases = bad
        tally = check.timed("azure")
        check.cases = then
        check.once_more([tally])
        assert len(tally.failures) == 1 and "once more" not in tally.failures[0] and tally.passed == 1, then


def test_much_that_failed_is_no_matter_of_a_busy_machine(check):
    some = [check.REPO / path for path in list(check.INTEGRATION.values())[:check.ONCE_MORE_FILES + 1]]
    check.cases = "".join(FAILED.replace("tests.a.test_one", f"tests.integration.{path.stem}") for path in some)
    tally = check.timed("azure")
    check.ran.clear()
    check.once_more([tally])
    assert check.ran == [] and len(tally.failures) == len(some)
    check.LAST_TEST_AT = time.monotonic() - 1  # nor is there time for it
    tally.bad.popitem()
    check.once_more([tally])
    assert check.ran == []


@pytest.mark.parametrize("name, failed, skipped", [("azure", 2, 1), ("integration-alone", 2, 1), ("vm-scratch", 0, 3)])
def test_what_did_not_begin_in_time(check, name, failed, skipped):
    """Nobody knows whether it passes; what a slow machine can do without is skipped by name."""
    check.cases = "".join(LATE.format(i, check.LATE) for i in range(2))
    tally = check.timed(name)
    assert (len(tally.failures), len(tally.skips), tally.passed) == (failed, skipped, 1)
    late = tally.failures if failed else tally.skips[1:]
    assert all(f"{name}: 2 tests: not begun" in why and f"--only {name}" in why for why in late), late


def test_which_stages_do_not_begin_when_time_is_short(check):
    """Ten minutes before none begins, those that can be done without do not; those that measure time always do."""
    check.rc, check.BEGIN_UNTIL = 0, time.monotonic() + 599
    for name, runs in (("vm-scratch", False), ("azure", True), ("integration-alone", True)):
        check.ran.clear()
        tally = check.timed(name)
        assert bool(check.ran) == runs and any("55 minutes were over" in why for why in tally.skips) != runs, name
    check.BEGIN_UNTIL = time.monotonic() - 1
    for name, runs in (("azure", False), ("integration-alone", True)):
        check.ran.clear()
        assert bool(check.timed(name).skips) and bool(check.ran) == runs, name
