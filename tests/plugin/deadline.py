# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest, for run_check.py: on a machine that is slow or busy, no test begins after $TB_BEGIN_UNTIL (time.monotonic()): it has
failed, as nobody knows whether it passes, and those that ran end in order and say what became of them."""

import os
import time

import pytest

UNTIL = float(os.environ.get("TB_BEGIN_UNTIL", "inf"))
LATE = "not begun, on a slow or busy machine"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    if time.monotonic() > UNTIL:
        pytest.fail(LATE, pytrace=False)
