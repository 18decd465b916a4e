# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-update(8).

_tb_update() {
    local words=

    if ((COMP_CWORD == 1)); then
        words='status switch retry run --help --version'
    elif [[ ${COMP_WORDS[1]} == switch ]]; then
        words='--no-wait'
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -o nosort -F _tb_update tb-update
