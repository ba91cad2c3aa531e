#!/usr/bin/env bash
# Resolve pyproject.toml into both locks again.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t torch < <(.venv/bin/python locks/torch_source.py)
.venv/bin/uv pip compile -q --python-version 3.11 "${torch[@]}" --overrides locks/cpu.overrides.txt \
    --extra cpu --extra dev --no-emit-find-links --no-header -o locks/cpu.txt pyproject.toml
.venv/bin/uv pip compile -q --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
    --extra gpu --extra dev --no-header --no-annotate -o locks/gpu.txt pyproject.toml
echo "locks: done"
