"""The blocks of a network's trunk, in the order of the forward pass as they are defined, and which block a tensor belongs to."""

from torch import nn

HEADS = ("head", "heads", "classifier", "fc")  # how a head's parameters are called: ours, Avalanche's, torchvision's
ADDED = ("lora_a", "lora_b", "adapter", "prompt")  # how names start of what is added


def is_head(name: str) -> bool:
    """Whether a parameter of that name is the head's."""
    return name.partition(".")[0] in HEADS


def is_added(name: str) -> bool:
    """Whether a parameter of that name was put into the network to learn beside frozen weights: `lora`, `adapters`, `l2p`, ..."""
    return any(part.startswith(ADDED) for part in name.split("."))


def outer_blocks(model: nn.Module) -> list[str]:
    """Names of the children that hold weights of the first module, from the outermost on, that has more than one (no head)."""
    prefix, module = "", model
    while True:
        children = [
            (name, child)
            for name, child in module.named_children()
            if not (module is model and name == "head") and _is_weighty(child)
        ]
        if len(children) != 1 or not list(children[0][1].children()):
            return [prefix + name for name, _ in children]
        prefix, module = f"{prefix}{children[0][0]}.", children[0][1]


def blocks_of(model: nn.Module) -> list[str]:
    """Names of the trunk's blocks: single layers, residual blocks, transformer blocks; stages of several are taken apart."""
    outer = [name for name in outer_blocks(model) if not is_head(name)]
    return [block for name in outer for block in _parts(name, model.get_submodule(name))]


def block_numbers(model: nn.Module) -> dict[str, int]:
    """The number (from 0) of the block that each of the trunk's parameters and buffers belongs to.

    What stands between two blocks (a normalisation) belongs to the one before, what stands before the first to the first.
    Prompts have none.
    """
    blocks = blocks_of(model)
    numbers: dict[str, int] = {}
    present = 0
    for path, module in model.named_modules():
        inside = [number for number, block in enumerate(blocks) if f"{path}.".startswith(f"{block}.")]
        present = inside[0] if inside else present
        for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            full = f"{path}.{name}" if path else name
            if not is_head(full) and not name.startswith("prompt"):  # those learn with the head
                numbers[full] = present
    return numbers


def _parts(name: str, module: nn.Module) -> list[str]:
    children = [(f"{name}.{child_name}", child) for child_name, child in module.named_children() if _is_weighty(child)]
    if not isinstance(module, nn.Sequential | nn.ModuleList) or len(children) < 2:
        return [name]
    return [part for child_name, child in children for part in _parts(child_name, child)]


def _is_weighty(module: nn.Module) -> bool:
    """Whether it holds weights, more than those of a normalisation."""
    return any(parameter.ndim > 1 for parameter in module.parameters())
