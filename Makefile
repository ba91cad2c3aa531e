# Two commands matter: `make demo` holds the whole study on this machine, `make test` checks placid itself.
.PHONY: setup demo test check locks clean

setup:  # .venv from the locked packages; returns at once when nothing changed
	@bash locks/install.sh

demo: setup
	.venv/bin/placid study configs/study/demo.toml

test: setup
	.venv/bin/pytest -q tests

check: setup
	.venv/bin/ruff check src tests
	.venv/bin/ruff format --check src tests
	.venv/bin/pyright

locks: setup  # resolve pyproject.toml into both lock files again
	bash locks/lock.sh

clean:  # what the demo wrote; the organism and .venv stay
	rm -rf runs/demo checkpoints/demo
