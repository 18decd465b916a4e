# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-status(8).

_tb_status() {
    mapfile -t COMPREPLY < <(compgen -W "--check --json --watch --watch= --help --version" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -o nosort -F _tb_status tb-status
