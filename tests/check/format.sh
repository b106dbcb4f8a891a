#!/bin/bash
# Every C file is as clang-format 19 leaves it.
set -euo pipefail
cd "$(dirname "$0")/../.."
find src include tests -name '*.[ch]' -print0 | sort -z |
    xargs -0 -n 32 clang-format-19 --dry-run -Werror --ferror-limit=1
