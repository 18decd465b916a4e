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


# By file, in the order in which they begin when files run side by side: of these the tests wait one after the other, for a minute and more, and
# would be what all others have ended without. pytest --durations=0.
LONG = ("test_repair_counts", "test_repair", "test_monitoring", "test_versions_chain", "test_state_files", "test_controlplane_purchase", "test_mend",
        "test_view_faults", "test_controlplane_store", "test_picture")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: LONG.index(i.path.stem) if i.path.stem in LONG else len(LONG))
