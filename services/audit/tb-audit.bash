# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-audit(8); the options are those that --help names.

_tb_audit() {
    local cur=${COMP_WORDS[COMP_CWORD]} options

    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W 'verify head --help --version' -- "$cur")
    elif [[ $cur == -* ]]; then
        options=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n 's/^ *\(-., \)*\(--[a-z-]*=*\).*/\2/p')
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -o nosort -o filenames -F _tb_audit tb-audit
