# SPDX-License-Identifier: Apache-2.0
# Installs the trustbridge package into a VM image: `qemu` makes a disk for a laptop or a private cloud from a Debian cloud image, `azure-arm` a
# version of a Compute Gallery image from Ubuntu 24.04 with the GPU driver. See README.md; `tbpkg build` calls it.
#
# Uses only what Packer 1.6.6 (Debian 12) understands, so that it can be validated and the qemu part built offline. Newer versions also
# need plugins.pkr.hcl.

variable "debs" {
  type        = string
  description = "Directory with trustbridge_*.deb, built for the base's release."
}

variable "extra_debs" {
  type        = string
  default     = ""
  description = "Directory with further .debs to install: the runtime, nvidia-container-toolkit. None when empty."
}

variable "extra_packages" {
  type        = string
  default     = ""
  description = "Packages of the base's own archive to install as well, separated by spaces."
}

variable "runtime_script" {
  type        = string
  default     = ""
  description = "Script that installs the inference server, run as root; it appends TB_RUNTIME_EXEC to /etc/trustbridge/trustbridge.env."
}

variable "provider_key" {
  type        = string
  default     = ""
  description = "Public keys of the provider (RW..., with commas between): every machine of this image serves only what they signed. Pinned nowhere when empty."
}

variable "inventory" {
  type        = string
  default     = ""
  description = "File that gets the list of the software in the image, from which `tbpkg build` makes its bill of materials."
}

variable "ssh_username" {
  type    = string
  default = "tb-build"
}

# -- qemu --

variable "base_image" {
  type        = string
  default     = ""
  description = "qcow2 of a Debian cloud image that reads a NoCloud seed: a path or a URL."
}

variable "base_checksum" {
  type        = string
  default     = "none"
  description = "Its checksum, as in sha512:HEX or file:URL; none for a file of your own."
}

variable "seed" {
  type        = string
  default     = ""
  description = "Directory that scripts/seed.sh made: what cloud-init is told, and the key to log in with once."
}

variable "output_directory" {
  type    = string
  default = "output-qemu"
}

variable "accelerator" {
  type    = string
  default = "kvm"
}

variable "cpu" {
  type        = string
  default     = "host"
  description = "QEMU's -cpu: max,-cx16 with accelerator=tcg."
}

variable "memory" {
  type    = number
  default = 2048
}

variable "disk_size" {
  type    = string
  default = "30G"
}

variable "kernel" {
  type        = string
  default     = ""
  description = "For a base without a boot loader: kernel and initrd, which QEMU then loads itself."
}

variable "initrd" {
  type    = string
  default = ""
}

variable "kernel_append" {
  type    = string
  default = "root=/dev/vda rootfstype=ext4 rw console=ttyS0 net.ifnames=0"
}

# -- azure-arm --

variable "subscription_id" {
  type    = string
  default = ""
}

variable "location" {
  type    = string
  default = "westeurope"
}

variable "resource_group" {
  type        = string
  default     = ""
  description = "Of the gallery."
}

variable "gallery_name" {
  type    = string
  default = ""
}

variable "image_name" {
  type        = string
  default     = "trustbridge"
  description = "Image definition in the gallery. Trusted Launch is a property of the definition: Gen2, SecurityType=TrustedLaunchSupported."
}

variable "image_version" {
  type    = string
  default = "1.0.0"
}

variable "replication_regions" {
  type        = list(string)
  default     = []
  description = "Besides location."
}

variable "build_vm_size" {
  type        = string
  default     = "Standard_D4s_v5"
  description = "The machine that builds. It needs no GPU: the driver is installed, not loaded."
}

variable "nvidia_driver" {
  type        = string
  default     = "570"
  description = "Branch of the NVIDIA server driver with modules signed by Canonical, so that Secure Boot stays on."
}

locals {
  debs    = "/tmp/trustbridge-debs"
  scripts = "/tmp/trustbridge-scripts"
  # generalise.sh empties /tmp.
  finish    = "cp -r ${local.scripts} /run/ && cd /run/trustbridge-scripts && sh generalise.sh && sh check-image.sh"
  as_root   = var.ssh_username == "root" ? "" : "sudo -n "
  run       = "${local.as_root}env {{ .Vars }} sh '{{ .Path }}'"
  seed_args = ["-smbios", "type=1,serial=ds=nocloud-net;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/"]
  cpu_args  = ["-cpu", var.cpu]
  boot_args = var.kernel == "" ? [] : [["-kernel", var.kernel], ["-initrd", var.initrd], ["-append", var.kernel_append]]
  regions   = concat([var.location], var.replication_regions)
}

source "qemu" "trustbridge" {
  accelerator            = var.accelerator
  boot_wait              = "1s"
  disk_compression       = true
  disk_image             = true
  disk_interface         = "virtio"
  disk_size              = var.disk_size
  format                 = "qcow2"
  headless               = true
  http_directory         = "${var.seed}/http"
  iso_checksum           = var.base_checksum
  iso_url                = var.base_image
  machine_type           = "q35"
  memory                 = var.memory
  net_device             = "virtio-net"
  output_directory       = var.output_directory
  qemuargs               = concat([local.cpu_args, local.seed_args], local.boot_args)
  shutdown_command       = "true"
  ssh_handshake_attempts = 100
  ssh_private_key_file   = "${var.seed}/key"
  ssh_timeout            = "20m"
  ssh_username           = var.ssh_username
  vm_name                = "trustbridge.qcow2"
}

source "azure-arm" "trustbridge" {
  azure_tags = {
    product = "trustbridge"
  }
  image_offer                       = "ubuntu-24_04-lts"
  image_publisher                   = "Canonical"
  image_sku                         = "server"
  location                          = var.location
  managed_image_name                = "${var.image_name}-${var.image_version}"
  managed_image_resource_group_name = var.resource_group
  os_disk_size_gb                   = 64
  os_type                           = "Linux"
  shared_image_gallery_destination {
    gallery_name        = var.gallery_name
    image_name          = var.image_name
    image_version       = var.image_version
    replication_regions = local.regions
    resource_group      = var.resource_group
    subscription        = var.subscription_id
  }
  ssh_username       = var.ssh_username
  subscription_id    = var.subscription_id
  use_azure_cli_auth = true
  vm_size            = var.build_vm_size
}

build {
  sources = ["source.qemu.trustbridge", "source.azure-arm.trustbridge"]

  provisioner "shell" {
    inline = ["mkdir -p ${local.debs} ${local.scripts}"]
  }
  provisioner "file" {
    destination = local.debs
    source      = "${var.debs}/"
  }
  provisioner "file" {
    destination = local.debs
    source      = var.extra_debs == "" ? "${path.root}/scripts/" : "${var.extra_debs}/"
  }
  provisioner "shell" {
    environment_vars = ["TB_EXTRA_PACKAGES=${var.extra_packages}", "TB_IMAGE_PROVIDER_KEY=${var.provider_key}"]
    execute_command  = local.run
    only             = ["qemu.trustbridge"]
    script           = "${path.root}/scripts/install.sh"
  }
  provisioner "shell" {
    environment_vars = ["TB_EXTRA_PACKAGES=openssl podman ${var.extra_packages}", "TB_NVIDIA_DRIVER=${var.nvidia_driver}", "TB_IMAGE_PROVIDER_KEY=${var.provider_key}"]
    execute_command  = local.run
    only             = ["azure-arm.trustbridge"]
    script           = "${path.root}/scripts/install.sh"
  }
  provisioner "shell" {
    execute_command = local.run
    script          = var.runtime_script == "" ? "${path.root}/scripts/no-runtime.sh" : var.runtime_script
  }
  provisioner "file" {
    destination = local.scripts
    source      = "${path.root}/scripts/"
  }
  provisioner "shell" {
    execute_command = local.run
    inline          = ["/usr/lib/trustbridge/tb-inventory >${local.scripts}/inventory"]
    inline_shebang  = "/bin/sh -eu"
  }
  provisioner "file" {
    destination = var.inventory == "" ? "/dev/null" : var.inventory
    direction   = "download"
    source      = "${local.scripts}/inventory"
  }
  # It ends by removing the user that Packer works as, so it and the check are one command, and the machine is switched off from inside.
  provisioner "shell" {
    environment_vars = ["TB_BUILD_USER=${var.ssh_username}", "TB_IMAGE_KIND=vm"]
    execute_command  = local.run
    inline           = [local.finish, "systemd-run --quiet --on-active=2s systemctl poweroff"]
    inline_shebang   = "/bin/sh -eu"
    only             = ["qemu.trustbridge"]
  }
  provisioner "shell" {
    environment_vars = ["TB_BUILD_USER=${var.ssh_username}", "TB_IMAGE_KIND=azure"]
    execute_command  = local.run
    inline           = [local.finish]
    inline_shebang   = "/bin/sh -eu"
    only             = ["azure-arm.trustbridge"]
  }
}
