"""How a check of the contract ends, if it does not pass."""


class ContractError(AssertionError):
    """A module breaks its contract. The message says how, and what its author can do."""


class NotApplicable(Exception):
    """A check does not apply to this module. The message is the reason."""


def require(kept: bool, message: str) -> None:
    """Raise ContractError with `message` unless the contract is kept."""
    if not kept:
        raise ContractError(message)
