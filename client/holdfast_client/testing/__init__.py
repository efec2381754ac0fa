"""A fake node for tests of what calls holdfast: no root, no disk, no machine."""

from holdfast_client.testing.node import FakeNode
from holdfast_client.testing.script import Call, Reimaging, Script

__all__ = ["Call", "FakeNode", "Reimaging", "Script"]
