# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# bash completion for tbpkg(1). Works with and without the bash-completion package.

_tbpkg() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} options
    local commands="encrypt decrypt verify inspect upload register help"
    local common="--help --json --quiet --version"

    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$cur")
        return
    fi
    # "--in=FILE" arrives as three words
    [[ $cur == = ]] && cur=
    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}

    case $command in
    help)
        mapfile -t COMPREPLY < <(compgen -W "${commands% help}" -- "$cur")
        return
        ;;
    encrypt)
        options="--asset-id --in --out --manifest --key-out --chunk-bytes --no-finetune --threads --force"
        ;;
    decrypt)
        options="--in --manifest --key-file --key-hex --out --threads --force --lenient"
        ;;
    verify)
        options="--in --manifest --key-file --key-hex --threads --lenient"
        ;;
    inspect)
        options="--in --manifest --lenient"
        ;;
    upload)
        options="--storage-account --container --asset-id --encrypted-file --manifest --force --verify --endpoint
            --ca-file --insecure-http --block-bytes --concurrency --retries --timeout --verbose
            --connection-string-file --account-key-file --sas-file"
        ;;
    register)
        options="--edc-endpoint --asset-id --manifest --key-file --blob-url --storage-account --container --key-hex
            --token-file --client-cert --client-key --ca-file --insecure-http"
        ;;
    *)
        return
        ;;
    esac

    case $prev in
    --chunk-bytes)
        mapfile -t COMPREPLY < <(compgen -W "1M 4M 8M 16M 32M 64M" -- "$cur")
        ;;
    --threads | --asset-id | --key-hex | --storage-account | --container | --endpoint | --edc-endpoint | --blob-url | \
        --block-bytes | --concurrency | --retries | --timeout)
        ;;
    *)
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$options $common" -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            compopt -o filenames 2>/dev/null
        fi
        ;;
    esac
}
complete -F _tbpkg tbpkg
