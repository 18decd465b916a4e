# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-backup(8) and tb-restore(8); the options are those that --help names.

_tb_backup() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} options

    if [[ $cur == -* ]]; then
        options=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n 's/^ *\(-., \)*\(--[a-z-]*=*\).*/\2/p')
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    elif [[ $prev == --only || ${COMP_WORDS[COMP_CWORD - 2]} == --only ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'settings state credentials' -- "${cur#=}")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "${cur#=}")
    fi
}
complete -o nosort -o filenames -F _tb_backup tb-backup tb-restore
