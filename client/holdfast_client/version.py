"""The version of this package; it talks to every version of the API's first level on."""

__version__ = "0.1.0"
AGENT = f"holdfast-client/{__version__}"
"""What calls are made as."""
