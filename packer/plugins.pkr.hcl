# SPDX-License-Identifier: Apache-2.0
# For Packer 1.7 and newer, whose builders are plugins: `packer init` downloads them. Packer 1.6 has them built in and does not understand
# this block: leave the file out there.

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
