"""One compression step: its components, its plan on the host, its work on the device."""
