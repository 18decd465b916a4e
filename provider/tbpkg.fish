# SPDX-License-Identifier: Apache-2.0
# fish completion for tbpkg(1): what the completion for bash finds. That splits "--option=value", and fish does not.

function __tbpkg_complete
    set -l last (commandline --current-token)
    set -l before ""
    set -l words (commandline --tokenize --current-process --cut-at-cursor)
    if string match --quiet -- '--*=*' "$last"
        set before (string replace --regex '=.*' '=' -- "$last")
        set words $words (string replace --regex '=.*' '' -- "$last") = (string replace --regex '^[^=]*=' '' -- "$last")
    else
        set words $words "$last"
    end
    bash -c '. "$0" && COMP_WORDS=("$@") && COMP_CWORD=$(($# - 1)) && _tbpkg 2>/dev/null
        printf "%s\n" "${COMPREPLY[@]}"' @datadir@/bash-completion/completions/tbpkg $words | string match --regex '.+' | string replace --regex '^' -- "$before"
end

for name in tbpkg trustbridge
    complete --command $name --no-files --arguments '(__tbpkg_complete)'
end
