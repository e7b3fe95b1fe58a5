"""The same classes with a different corruption of ImageNet-C in each domain, on any data set."""

from functools import partial
from typing import Annotated, get_args

from annotated_types import Interval

from ..platform.config.settings import settings
from ..platform.data import corruptions
from ..platform.data.cache import DataFolders
from ..platform.data.corruptions import Corruption
from ..platform.data.dataset_key import DataKey, load_data_set, with_defaults
from ..platform.data.streams import Stream
from ..platform.data.subsampling import SubsetOptions
from ..platform.data.synthetic_domain_streams import (
    Domain,
    Pictures,
    changed_pictures,
    check_different,
    stream_of_domains,
)
from ..platform.errors import UserError


@settings
class Config(SubsetOptions):
    """The same classes with a different corruption of ImageNet-C in each domain, on any data set.

    corruptions: names, one domain each, in this order; "none" leaves the data unchanged. Default: one of each family.
    severity: 1 to 5, as in ImageNet-C, for all corruptions.
    data: the data set, as a name or as one name with its settings.
    """

    corruptions: tuple[Corruption, ...] = ("none", "gaussian_noise", "defocus_blur", "fog", "pixelate")
    severity: Annotated[int, Interval(ge=1, le=5)] = 3
    data: DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_defaults(self.data))
        check_different("corruptions", self.corruptions, get_args(Corruption))


def build(config: Config, seed: int, folders: DataFolders, name: str = "corrupted") -> Stream:
    """Build the stream; `seed` determines the validation pictures and the subsets.

    Raises:
        UserError: the corruption "jpeg" with pictures that have neither one channel nor three.
    """
    source = load_data_set(config.data, folders)
    if "jpeg" in config.corruptions and source.shape[0] not in (1, 3):
        raise UserError(f"benchmark.{name}.corruptions: 'jpeg' needs 1 channel or 3, not {source.shape[0]}.")
    domains: list[Domain] = []
    for corruption in config.corruptions:
        key = "" if corruption == "none" else f"{corruption}{config.severity}-{corruptions.VERSION}"
        changed = changed_pictures(source, key, partial(_corrupt, corruption, config.severity), folders)
        domains.append((corruption if not key else f"{corruption} {config.severity}", *changed))
    return stream_of_domains(name, source, domains, config, seed)


def _corrupt(name: Corruption, severity: int, pictures: Pictures, part: str, start: int) -> Pictures:
    return corruptions.corrupt(name, severity, pictures, part, start)
