#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Used when the variable runtime_script is not set.
echo "no inference server is installed: set runtime_script, or TB_RUNTIME_EXEC in the deployment" >&2
