#!/usr/bin/env bash
# Resolve pyproject.toml into the two locks again.
set -euo pipefail
cd "$(dirname "$0")/.."
links=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)
torch=(--torch-backend cpu)
[ -n "$links" ] && compgen -G "$links/torch-*+cpu*" >/dev/null && torch=(--find-links "$links")
.venv/bin/uv pip compile -q --python-version 3.11 "${torch[@]}" --overrides locks/cpu.overrides.txt --extra cpu --extra dev \
    --no-emit-find-links --no-header --no-annotate -o locks/cpu.txt pyproject.toml
.venv/bin/uv pip compile -q --python-version 3.12 --python-platform x86_64-manylinux_2_28 --extra gpu --extra dev \
    --no-header --no-annotate -o locks/gpu.txt pyproject.toml
