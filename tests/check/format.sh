#!/bin/bash
# Every C file is as clang-format leaves it.
set -euo pipefail
cd "$(dirname "$0")/../.."
find src include tests -name '*.[ch]' -print0 | xargs -0 -n 16 -P 2 clang-format --dry-run -Werror
