"""CIFAR-100. N samples."""

from typing import Literal

import torch

from ...config.settings import settings
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions, make_data_set
from ._cifar import CifarSet, open_cifar

_GROUPS = {  # coarse class -> fine classes; both kinds are numbered alphabetically
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_COARSE_OF = {name: number for number, names in enumerate(_GROUPS.values()) for name in names.split()}
CLASSES = {"fine": tuple(sorted(_COARSE_OF)), "coarse": tuple(_GROUPS)}
COARSE = tuple(_COARSE_OF[name] for name in CLASSES["fine"])  # the coarse label of each fine one

FILES = CifarSet(
    name="cifar100",
    title="CIFAR-100",
    torchvision="CIFAR100",
    binary="cifar-100-binary",
    binary_files=("train.bin", "test.bin"),
    pickled="cifar-100-python",
    pickled_files=("train", "test"),
    num_classes=100,
    coarse=COARSE,
)


@settings
class Config(DataSetOptions):
    """CIFAR-100: 32x32 colour, 50,000 for training and 10,000 for testing, 100 classes in 20 groups (Krizhevsky 2009).

    Read from cifar-100-binary or cifar-100-python in the data folder; downloaded if absent.

    labels: "fine" (default): 100 classes; "coarse": the 20 groups of five.
    """

    labels: Literal["fine", "coarse"] = "fine"


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set; one cache entry serves both kinds of labels.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    key, arrays = open_cifar(FILES, folders)
    if config.labels == "coarse":
        key += "-coarse"
        arrays |= {name: torch.tensor(COARSE)[arrays[name]] for name in ("train_y", "test_y")}
    return make_data_set(
        key,
        arrays,
        CLASSES[config.labels],
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        normalise=config.normalise,
    )
