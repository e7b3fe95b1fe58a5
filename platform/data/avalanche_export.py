"""Export streams as Avalanche benchmarks, for its template, its plugins and other code that expects one."""

from typing import Any

from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.scenarios.dataset_scenario import DatasetExperience
from avalanche.benchmarks.scenarios.generic_scenario import EagerCLStream
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.models.utils import avalanche_model_adaptation

from .stream_benchmark import PARTS, class_sets, task_of
from .streams import Part, ResidentDataset, Stream


def avalanche_benchmark(stream: Stream) -> CLScenario:
    """Return a stream as an Avalanche benchmark with the streams ``train``, ``valid`` and ``test``."""
    benchmark = CLScenario([EagerCLStream(name, _experiences(stream, part)) for name, part in PARTS.items()])
    for avalanche_stream in benchmark.streams.values():
        avalanche_stream.benchmark = benchmark
    return benchmark


def _experiences(stream: Stream, part: str) -> list[DatasetExperience]:
    experiences = []
    for number, (ours, classes) in enumerate(zip(stream.experiences, class_sets(stream), strict=True)):
        task = task_of(stream, number)
        experience = DatasetExperience(dataset=_dataset(stream, getattr(ours, part), task), current_experience=number)
        experience.classes_in_this_experience = sorted(classes.present)
        experience.previous_classes = set(classes.previous)
        experience.classes_seen_so_far = set(classes.seen)
        experience.future_classes = set(classes.future)
        experience.task_labels, experience.task_label = [task], task
        experiences.append(experience)
    return experiences


def _dataset(stream: Stream, part: Part, task: int) -> TaskAwareSupervisedClassificationDataset:
    data = ResidentDataset(stream, part, task)
    labels = [DataAttribute(data.targets, "targets"), DataAttribute([task] * len(part), "targets_task_labels")]
    return TaskAwareSupervisedClassificationDataset([data], data_attributes=labels)


def adapt_heads(model: Any, experiences: Any) -> None:
    """Grow Avalanche's heads to the classes of these experiences, in order."""
    for experience in experiences:
        avalanche_model_adaptation(model, experience)
