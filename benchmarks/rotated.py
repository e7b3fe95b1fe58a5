"""The same classes rotated by a different angle in each domain, on any data set."""

from functools import partial
from typing import Annotated

from annotated_types import MinLen

from ..platform.config.settings import Finite, OnlyWith, PositiveInt, settings
from ..platform.data import image_rotation
from ..platform.data.cache import DataFolders
from ..platform.data.dataset_key import DataKey, load_data_set, with_defaults
from ..platform.data.streams import Stream
from ..platform.data.subsampling import ANGLES, SubsetOptions, numpy_generator
from ..platform.data.synthetic_domain_streams import Domain, Pictures, changed_pictures, stream_of_domains

Angles = Annotated[tuple[Annotated[float, Finite], ...], MinLen(1)]


@settings
class Config(SubsetOptions):
    """The same classes rotated by a different angle in each domain, on any data set.

    angles: counter-clockwise, in degrees, one domain each, in this order. The default avoids 180, which turns a 6 into a 9.
    num_random_angles: number of angles sampled by the seed from [0, 180), instead of `angles`, as in the rotated MNIST of DER
        and GEM; null: use `angles`.
    data: the data set, as a name or as one name with its settings.
    """

    angles: Annotated[Angles, OnlyWith(num_random_angles=None)] = (0.0, 30.0, 60.0, 90.0, 120.0)
    num_random_angles: PositiveInt | None = None
    data: DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_defaults(self.data))
        if len({angle % 360 for angle in self.angles}) < len(self.angles):
            raise ValueError(f"angles={self.angles}: must differ from each other (360 degrees is 0)")


def build(config: Config, seed: int, folders: DataFolders, name: str = "rotated") -> Stream:
    """Build the stream; `seed` determines random angles, the validation pictures and the subsets."""
    source = load_data_set(config.data, folders)
    domains: list[Domain] = []
    angles = config.angles
    if config.num_random_angles is not None:
        angles = tuple(numpy_generator(seed, ANGLES).uniform(0, 180, config.num_random_angles).round(3).tolist())
    for angle in map(float, angles):
        key = "" if angle % 360 == 0 else f"rotated{angle % 360!r}-{image_rotation.VERSION}"
        domains.append((f"rotation {angle:g}", *changed_pictures(source, key, partial(_rotate, angle % 360), folders)))
    return stream_of_domains(name, source, domains, config, seed)


def _rotate(angle: float, pictures: Pictures, part: str, start: int) -> Pictures:
    return image_rotation.rotate(pictures, angle)
