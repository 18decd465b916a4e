# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

repo = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(repo / "e2e-vagrant/lib"), str(repo / "tests/integration")]
