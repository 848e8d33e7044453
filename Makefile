# Every target sets up what it needs. `make` alone lists them.
.PHONY: help venv demo test check bench evidence fuzz test-engines format clean

help:
	@echo "make demo          see it work: emulated engines, load, a comparison (no GPU, under two minutes)"
	@echo "make test          all tests that need no GPU and no engine"
	@echo "make check         format, lint, types, layering"
	@echo "make bench         CPU and latency beside nginx; time of a decision; speed of the simulator"
	@echo "make evidence      policies against other routers' rules, into docs/policies.md (half an hour)"
	@echo "make fuzz          fuzz the parsers for a minute, or MINUTES=30; tests/fuzz/fuzz_run.py has options"
	@echo "make test-engines  tests against two real vLLM engines on the CPU (installs them: about 4 GB)"
	@echo "make format        put the code into shape"

venv:
	@scripts/venv.sh

demo: venv
	@.venv/bin/fairlead demo

test: venv
	@scripts/need.sh promtool prometheus || true
	@.venv/bin/python -m pip install -q -r tests/exports/requirements.txt || echo "exports are not checked by all tools"
	.venv/bin/python -m pytest -q

check: venv
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/rules

bench: venv
	.venv/bin/python -m bench
	.venv/bin/python -m bench.decision
	.venv/bin/python -m bench.hotpath
	.venv/bin/python -m bench.simulator

evidence: venv
	.venv/bin/python -m bench.policies --write

fuzz: venv
	@.venv/bin/python -m pip install -q "atheris>=3,<4" || echo "no atheris for this Python: our own engine fuzzes instead"
	.venv/bin/python tests/fuzz/fuzz_run.py --minutes $(or $(MINUTES),1)

test-engines: venv
	@scripts/engines/test.sh

format: venv
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .tools .engines .mypy_cache .ruff_cache
