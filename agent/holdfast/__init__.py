"""holdfast: replace everything on a stateful node except its state."""

from holdfast._engine import __version__

__all__ = ["__version__"]
