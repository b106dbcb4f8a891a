#!/bin/bash
# clang-tidy 19 over the sources, by the compile commands of build/asan (a clang build). A file that passed is
# looked at again only when it, a header or the rules have changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/asan
passed=build/tidy
mkdir -p $passed

shared=$(find include src -name '*.h' -print0 | sort -z | xargs -0 cat .clang-tidy | sha256sum)
export shared build passed
check() {
    local key
    key=$passed/$(cat "$1" - <<<"$shared" | sha256sum | cut -d' ' -f1)
    [ ! -e "$key" ] || return 0
    clang-tidy-19 --quiet -p $build "$1" 2>/dev/null || return 255
    touch "$key"
}
export -f check
find src -name '*.c' -print0 | xargs -0 -n 1 -P 2 bash -c 'check "$1" || { echo "tidy: $1"; exit 1; }' check
