# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest, for run_check.py: on a machine that is slow or busy, no test begins after $TB_BEGIN_UNTIL (time.monotonic()): it is skipped,
and says so, as who waits for the end would otherwise hear nothing of the tests that ran."""

import os
import time

import pytest

UNTIL = float(os.environ.get("TB_BEGIN_UNTIL", "inf"))
LATE = "not begun, on a slow or busy machine"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    if time.monotonic() > UNTIL:
        pytest.skip(LATE)
