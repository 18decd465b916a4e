# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
for folder in ("e2e-vagrant/lib", "e2e-vagrant/vm", "tests/packaging"):
    sys.path.insert(0, str(REPO / folder))

import patience  # noqa: F401
