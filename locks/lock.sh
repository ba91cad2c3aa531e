#!/usr/bin/env bash
# Resolve pyproject.toml into both locks again, with the sha256 of every file that may be installed (uv checks them).
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t torch < <(.venv/bin/python locks/torch_source.py)
.venv/bin/uv pip compile -q --python-version 3.11 "${torch[@]}" --overrides locks/cpu.overrides.txt \
    --extra cpu --extra dev --no-emit-find-links --no-header --generate-hashes -o locks/cpu.txt pyproject.toml
.venv/bin/uv pip compile -q --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
    --extra gpu --extra dev --no-header --no-annotate --generate-hashes -o locks/gpu.txt pyproject.toml
echo "uv>=0.9" | .venv/bin/uv pip compile -q --no-header --no-annotate --generate-hashes -o locks/uv.txt -
# torch+cpu comes from PyTorch's index or this machine's folder of wheels, whose files need not be the same
sed -i '/^torch==[^ ]*+cpu/,/^    #/{/--hash=/d; s/ \\$//}' locks/cpu.txt
echo "locks: done"
