# Two commands matter: `make demo` holds the whole study on this machine, `make test` checks placid.
.PHONY: setup demo test test-slow check locks clean

setup:
	@bash locks/install.sh

demo: setup
	.venv/bin/placid study configs/study/demo.toml

test: setup
	.venv/bin/pytest -q -n auto --maxprocesses 4 --dist loadfile tests

test-slow: setup
	.venv/bin/pytest -q tests -m slow

check: setup
	.venv/bin/ruff check src tests launch
	.venv/bin/ruff format --check src tests launch
	.venv/bin/pyright

locks: setup
	bash locks/lock.sh

clean:
	rm -rf runs/demo checkpoints/demo runs/quick checkpoints/quick runs/simulate
