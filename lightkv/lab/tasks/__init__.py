"""Tasks: what a subject is asked, and what its answers are worth."""

from lightkv.lab.tasks.base import Reference, Sample, Task, build_task, tasks

__all__ = ["Reference", "Sample", "Task", "build_task", "tasks"]
