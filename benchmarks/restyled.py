"""The same classes with different colours or another style in each domain, on any data set."""

from functools import partial
from typing import get_args

from ..platform.config.settings import settings
from ..platform.data import image_styles
from ..platform.data.cache import DataFolders
from ..platform.data.dataset_key import DataKey, load_data_set, with_defaults
from ..platform.data.image_styles import Style
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
    """The same classes with different colours or another style in each domain, on any data set.

    styles: names, one domain each, in this order; "as_is" leaves the data unchanged.
    data: the data set, as a name or as one name with its settings.
    """

    styles: tuple[Style, ...] = ("as_is", "tinted", "inverted", "posterised", "sketch")
    data: DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_defaults(self.data))
        check_different("styles", self.styles, get_args(Style))


def build(config: Config, seed: int, folders: DataFolders, name: str = "restyled") -> Stream:
    """Build the stream; `seed` determines the validation pictures and the subsets.

    Raises:
        UserError: the pictures are neither grey nor RGB, or the style "hue_rotated" is used with grey pictures.
    """
    source = load_data_set(config.data, folders)
    if source.shape[0] not in (1, 3):
        raise UserError(f"benchmark.{name}.data: the pictures have {source.shape[0]} channels, not 1 or 3.")
    grey = source.shape[0] == 1
    if grey and "hue_rotated" in config.styles:
        raise UserError(f"benchmark.{name}.styles: 'hue_rotated' changes nothing in grey pictures.")
    domains: list[Domain] = []
    for style in config.styles:
        key = "" if style == "as_is" and not grey else f"{style}-{image_styles.VERSION}"
        domains.append((style, *changed_pictures(source, key, partial(_restyle, style), folders, 3)))
    return stream_of_domains(name, source, domains, config, seed)


def _restyle(style: Style, pictures: Pictures, part: str, start: int) -> Pictures:
    return image_styles.restyle(style, pictures)
