"""One compression step: its components, its plan on the host, its work on the device."""

from lightkv._moved import names_of

__getattr__ = names_of(__name__)
