#!/usr/bin/env bash
# Ask PyPI's advisory database about every locked version; exit code 1 if it knows a vulnerability, 2 if it was not reached.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/uv tool run -q pip-audit --version
known=0
# local versions (+cpu) are none of PyPI's: the release itself is asked about
for name in cpu gpu; do
    sed -n 's/^\([A-Za-z0-9._-]*==[^ ;+]*\).*/\1/p' locks/$name.txt > "$folder/$name.txt"
    .venv/bin/uv tool run -q pip-audit --disable-pip --no-deps -r "$folder/$name.txt" > "$folder/$name.out" 2>&1 || known=1
    cat "$folder/$name.out"
    if grep -q "could not be audited" "$folder/$name.out"; then
        echo "audit: $(grep -c "could not be audited" "$folder/$name.out") packages of locks/$name.txt were not found: is pypi.org reached?" >&2
        known=2
    fi
done
exit $known
