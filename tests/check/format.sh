#!/bin/bash
# Every C file is as clang-format 19 leaves it.
set -uo pipefail
cd "$(dirname "$0")/../.."
bad=0
while IFS= read -r -d '' file; do
    clang-format-19 --dry-run -Werror "$file" 2>/dev/null || { echo "format: $file" && bad=1; }
done < <(find src include tests -name '*.[ch]' -print0 | sort -z)
exit $bad
