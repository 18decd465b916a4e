# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tb-configure(8).

_tb_configure() {
    local word=${COMP_WORDS[COMP_CWORD]} programs="tb-authorize tb-billing tb-decrypt tb-hydrate tb-load tb-proxy"
    case $word,${COMP_WORDS[COMP_CWORD - 1]} in
        *,--run) mapfile -t COMPREPLY < <(compgen -W "$programs" -- "$word") ;;
        -*) mapfile -t COMPREPLY < <(compgen -W "--check --json --run --help --version" -- "$word") ;;
        *) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    esac
}
complete -o filenames -F _tb_configure tb-configure
