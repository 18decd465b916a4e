# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-billing(8).

_tb_billing() {
    local words=

    if ((COMP_CWORD == 1)); then
        words='ledger unreported resolve --help --version'
    elif [[ ${COMP_WORDS[1]} == ledger ]]; then
        words='--json'
    elif [[ ${COMP_WORDS[1]} == resolve && $COMP_CWORD == 4 ]]; then
        words='accepted missing'
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -o nosort -F _tb_billing tb-billing
