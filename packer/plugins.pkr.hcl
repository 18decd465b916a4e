# SPDX-License-Identifier: Apache-2.0
# For Packer 1.7 and newer, which keep their builders in plugins: `packer init` fetches these. Packer 1.6 has them built in and does not
# understand this block; there leave the file away.

packer {
  required_plugins {
    azure = {
      source  = "github.com/hashicorp/azure"
      version = ">= 2.0.0"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}
