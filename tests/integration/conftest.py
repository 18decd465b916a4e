# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
# Helpers whose assertions say what they compared, as those of the tests do.
pytest.register_assert_rewrite("hydrate_world", "tbpkg_local")
