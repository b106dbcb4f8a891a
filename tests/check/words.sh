#!/bin/bash
# Words that have no place here: unsafe functions in C, and names of this or that machine or of package
# registries anywhere. (The brackets keep this file from finding itself.)
set -uo pipefail
cd "$(dirname "$0")/../.."

bad=0
unsafe='\b(strcpy|strcat|sprintf|vsprintf|atoi|atol|atoll|atof|gets|strtok|rand|alloca|system|popen|tmpnam|mktemp)[[:space:]]*\('
if grep -rnE "$unsafe" --include='*.[ch]' src include | grep -vE ':[[:space:]]*(/?\*|//)'; then
    echo "words: an unsafe function (above)"
    bad=1
fi
places='npm[j]s\.(org|com)|py[p]i\.org|deb\.debian[.]org|snapshot\.debian[.]|crates[.]io|proxy\.golang[.]|(^|[^A-Za-z0-9_])/work[/]|/tmp[/]cx'
if grep -rnIE "$places" . --exclude-dir=.git --exclude-dir=build --exclude-dir=.deps --exclude-dir=__pycache__; then
    echo "words: a path or host name of somebody's machine (above)"
    bad=1
fi
exit $bad
