# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
for p in (HERE.parent, HERE.parent / "lib", HERE.parent / "vm", HERE.parents[1] / "tests/integration"):
    sys.path.insert(0, str(p))
# It boots a machine: run by name only, see tests/run_check.py.
collect_ignore = ["test_vm.py"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failure in a virtual machine comes with the machine's console and journal."""
    report = (yield).get_result()
    machine = getattr(item, "funcargs", {}).get("vm")
    if report.when == "call" and report.failed and machine:
        report.sections.append(("machine", machine.report()))
