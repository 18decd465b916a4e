# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
for p in (HERE.parent, HERE.parent / "lib", HERE.parents[1] / "tests/integration"):
    sys.path.insert(0, str(p))
import patience  # noqa: F401

# They boot machines: run by name only, see tests/run_check.py.
collect_ignore = ["vm", "attested"]
