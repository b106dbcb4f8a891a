#!/bin/bash
# The direction of includes: base <- store, mirror, engine <- core <- mcp <- api <- main. A module sees the public
# headers of those below it, and each third-party header stays in the one place that wraps it.
set -euo pipefail
cd "$(dirname "$0")/../.."

failures=0
refuse() {
    echo "layers: $*"
    failures=$((failures + 1))
}

# The modules whose headers a module may include.
below() {
    case $1 in
    base) echo base ;;
    store) echo base store ;;
    mirror) echo base mirror ;;
    engine) echo base engine ;;
    core) echo base store mirror engine core ;;
    mcp) echo base store mirror engine core mcp ;;
    api) echo base store mirror engine core mcp api ;;
    main) echo base store mirror engine core mcp api ;;
    tools) echo ;;
    *) return 1 ;;
    esac
}

# Where a third-party header may be included, as a pattern of paths; "-" for the C library and the system.
place() {
    case $1 in
    sqlite3.h) echo 'src/store/*' ;;
    civetweb.h) echo 'src/api/*' ;;
    jansson.h) echo 'src/base/json.c' ;;
    hiredis/*) echo 'src/mirror/*' ;;
    openssl/ssl.h | openssl/x509*.h | openssl/bio.h | openssl/err.h) echo 'src/mirror/*' ;;
    openssl/*) echo 'src/base/*' ;;
    uuid/*) echo 'src/base/uuid.c' ;;
    *) echo - ;;
    esac
}

# One include of one file.
check() {
    local path=$1 kind=$2 header=$3 module target
    case $path in
    src/*/* | include/cs/*/*) module=${path#src/} module=${module#include/cs/} module=${module%%/*} ;;
    *) refuse "$path: not in a module" && return ;;
    esac
    if [ "$kind" = '<' ]; then
        target=$(place "$header")
        # shellcheck disable=SC2053 # the place is a pattern
        [ "$target" = - ] || [[ $path == $target ]] || refuse "$path includes <$header>, which belongs to $target"
        return
    fi
    case $header in
    cs/*/*)
        target=${header#cs/} target=${target%%/*}
        [[ " $(below "$module") " == *" $target "* ]] || refuse "$path ($module) includes $header"
        ;;
    *..*) refuse "$path includes $header: reach other modules by cs/MODULE/NAME.h" ;;
    *) [ -e "${path%/*}/$header" ] || refuse "$path includes $header, which is not beside it" ;;
    esac
}

while IFS=: read -r path line; do
    [[ $line =~ ^[[:space:]]*#[[:space:]]*include[[:space:]]*([\"\<])([^\"\>]+) ]] || continue
    check "$path" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
done < <(grep -rE '^[[:space:]]*#[[:space:]]*include' --include='*.[ch]' src include)

for module in src/*/; do
    below "$(basename "$module")" >/dev/null || refuse "$module: a module without a place in the layers"
done
[ $failures -eq 0 ]
