# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-support(8); the options are those that --help names.

_tb_support() {
    local cur=${COMP_WORDS[COMP_CWORD]} options

    if [[ $cur == -* ]]; then
        options=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n 's/^ *\(-., \)*\(--[a-z-]*=*\).*/\2/p')
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "${cur#=}")
    fi
}
complete -o nosort -o filenames -F _tb_support tb-support
