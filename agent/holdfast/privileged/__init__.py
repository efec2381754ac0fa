"""The only room that writes to /proc/sys, /sys, /etc, network interfaces and swap.

What can be written is a closed list of typed requests (`writes.py`), each checked here again
whatever its sender has checked, so that this room can be a process of its own one day: requests
are plain data. `room.py` performs them, one at a time. It never reads back: whoever asks for a
write looks at the outcome, as the kernel may have made something else of it.
"""

from holdfast.privileged.room import InProcess, Privileged
from holdfast.privileged.writes import Refused, Write

__all__ = ["InProcess", "Privileged", "Refused", "Write"]
