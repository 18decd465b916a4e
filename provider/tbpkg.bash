# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tbpkg(1), from what --help says. Works with and without the bash-completion package.

_tbpkg_commands() {
    "$@" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

_tbpkg() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} help commands verbs value
    local -a words=("$command")

    COMPREPLY=()
    commands=$(_tbpkg_commands "${COMP_WORDS[0]}")
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$cur")
        return
    fi
    # "--in=FILE" arrives as three words
    [[ $cur == = ]] && cur=
    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}

    if [[ $command == help ]]; then
        if ((COMP_CWORD == 2)); then
            mapfile -t COMPREPLY < <(compgen -W "${commands%help}" -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -W "$(_tbpkg_commands "${COMP_WORDS[0]}" "${COMP_WORDS[2]}")" -- "$cur")
        fi
        return
    fi
    [[ $'\n'$commands$'\n' == *$'\n'$command$'\n'* ]] || return
    if [[ $command == config && $COMP_CWORD == 2 && $cur != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W show -- "$cur")
        return
    fi
    if [[ $command == key && $COMP_CWORD == 2 && $cur != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "show-id check export" -- "$cur")
        return
    fi
    # commands that have commands: tbpkg contract add
    verbs=$(_tbpkg_commands "${COMP_WORDS[0]}" "$command")
    if [[ $verbs ]] && ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W "$verbs --help" -- "$cur")
        return
    fi
    [[ $verbs ]] && words+=("${COMP_WORDS[2]}")
    help=$("${COMP_WORDS[0]}" "${words[@]}" --help 2>/dev/null | sed -n 's/^  \(-., \|    \)\(--[a-z][^ ]*\).*/\2/p')
    # the option before the cursor, as "--in=FILE": its value
    value=$(grep -- "^$prev=" <<<"$help")
    case ${prev}${value#*=} in
    --provider-keyKEY | --key-outTARGET) value=FILE ;;
    --targetTARGET)
        value="oci vm-qemu vm-azure"
        [[ $command == build ]] && value+=" vm-attested"
        ;;
    --modeMODE) value="enrolled certificate open" ;;
    --verdictWORD) value="accepted missing" ;;
    --byWHAT) value="contract machine asset key" ;;
    --scopeSCOPE) value="owner publisher support auditor replace billing keys" ;;
    --stateSTATE)
        value="active expired revoked denied"
        [[ $command == machine ]] && value="active gone expelled"
        [[ $command == purchase ]] && value="new granted ended held"
        ;;
    *)
        value=${value#*=}
        ;;
    esac
    case $value in
    "" | FILE | DIR | INPUT | OUTPUT)
        if [[ $cur == -* && -z $value ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(cut -d= -f1 <<<"$help")" -- "$cur")
        elif [[ -z $verbs || -n $value ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            compopt -o filenames 2>/dev/null
        fi
        ;;
    SIZE)
        mapfile -t COMPREPLY < <(compgen -W "1M 4M 8M 16M 32M 64M" -- "$cur")
        ;;
    [a-z]*)
        mapfile -t COMPREPLY < <(compgen -W "$value" -- "$cur")
        ;;
    esac
}
complete -F _tbpkg tbpkg trustbridge
