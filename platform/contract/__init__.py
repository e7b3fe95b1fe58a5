"""The contract of strategies, networks, benchmarks, probes and data sets: what `retain check` asserts of a module.

Each function of `strategy`, `network`, `benchmark`, `probe` and `settings` states one part of the contract and raises
`ContractError` where a module breaks it. The package's tests call them for every shipped module.
"""
