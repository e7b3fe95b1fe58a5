"""Split a network's trunk into blocks, and find the block of each parameter and buffer.

The order in which blocks are defined is taken as the order of the forward pass.
"""

from torch import nn

HEADS = ("head", "heads", "classifier", "fc")  # attribute names of a head: ours, Avalanche's, torchvision's
ADDED = ("lora_a", "lora_b", "adapter", "prompt")  # prefixes of the names of added parameters: see `is_added`


def is_head(name: str) -> bool:
    """Return whether the parameter of that name belongs to the head."""
    return name.partition(".")[0] in HEADS


def is_added(name: str) -> bool:
    """Return whether the parameter was added to learn next to frozen weights: by `lora`, `adapters`, `l2p`, ..."""
    return any(part.startswith(ADDED) for part in name.split("."))


def outer_blocks(model: nn.Module) -> list[str]:
    """Return the names of a network's outer blocks.

    They are the children with weights of the outermost module that has more than one such child (the head left out).
    """
    prefix, module = "", model
    while True:
        children = [
            (name, child)
            for name, child in module.named_children()
            if not (module is model and name == "head") and _has_weights(child)
        ]
        if len(children) != 1 or not list(children[0][1].children()):
            return [prefix + name for name, _ in children]
        prefix, module = f"{prefix}{children[0][0]}.", children[0][1]


def blocks_of(model: nn.Module) -> list[str]:
    """Return the names of the trunk's blocks: single layers, residual blocks or transformer blocks.

    Stages of several blocks are split.
    """
    outer = [name for name in outer_blocks(model) if not is_head(name)]
    return [block for name in outer for block in _split_stages(name, model.get_submodule(name))]


def block_numbers(model: nn.Module) -> dict[str, int]:
    """Return the block number (from 0) of each of the trunk's parameters and buffers.

    A module between two blocks (a normalisation) belongs to the block before it. A module before the first block belongs to the
    first block. Prompts have no number.
    """
    blocks = blocks_of(model)
    numbers: dict[str, int] = {}
    current = 0
    for path, module in model.named_modules():
        inside = [number for number, block in enumerate(blocks) if f"{path}.".startswith(f"{block}.")]
        current = inside[0] if inside else current
        for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            full = f"{path}.{name}" if path else name
            if not is_head(full) and not name.startswith("prompt"):  # prompts learn with the head
                numbers[full] = current
    return numbers


def _split_stages(name: str, module: nn.Module) -> list[str]:
    children = [(f"{name}.{child_name}", child) for child_name, child in module.named_children() if _has_weights(child)]
    if not isinstance(module, nn.Sequential | nn.ModuleList) or len(children) < 2:
        return [name]
    return [part for child_name, child in children for part in _split_stages(child_name, child)]


def _has_weights(module: nn.Module) -> bool:
    """Whether it has weights besides those of a normalisation."""
    return any(parameter.ndim > 1 for parameter in module.parameters())
