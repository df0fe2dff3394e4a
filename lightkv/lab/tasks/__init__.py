"""Tasks: what a subject is asked, and what its answers are worth."""

from lightkv.lab.outcomes import Sample
from lightkv.lab.tasks.base import Reference, Task
from lightkv.lab.tasks.build import build_task, tasks

__all__ = ["Reference", "Sample", "Task", "build_task", "tasks"]
