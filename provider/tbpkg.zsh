#compdef tbpkg trustbridge
# SPDX-License-Identifier: Apache-2.0
# zsh completion for tbpkg(1): what the completion for bash finds. That splits "--option=value", and zsh does not.

local -a tbpkg_words tbpkg_found
local tbpkg_bash=@datadir@/bash-completion/completions/tbpkg

tbpkg_words=("${(@)words[1,CURRENT]}")
if [[ ${tbpkg_words[-1]} == --*=* ]]; then
    compset -P '*='
    tbpkg_words=("${(@)tbpkg_words[1,-2]}" "${tbpkg_words[-1]%%=*}" = "${tbpkg_words[-1]#*=}")
fi
tbpkg_found=("${(@f)$(bash -c '. "$0" && COMP_WORDS=("$@") && COMP_CWORD=$(($# - 1)) && _tbpkg 2>/dev/null
    printf "%s\n" "${COMPREPLY[@]}"' $tbpkg_bash "${tbpkg_words[@]}")}")
compadd -- ${tbpkg_found:#}
