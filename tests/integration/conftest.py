# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import patience  # noqa: F401

# Helpers whose assertions say what they compared, as those of the tests do.
pytest.register_assert_rewrite("backup_place", "configure_place", "hydrate_world", "stream_place", "tbpkg_local")


def pytest_configure(config):
    config.addinivalue_line("markers", "alone(reason): has the machine for itself in make check, for it measures time")
