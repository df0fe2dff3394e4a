"""What is composed and when it acts: specs, schedules, and the pipeline built for a decoder."""

from lightkv._moved import names_of

__getattr__ = names_of(__name__)
