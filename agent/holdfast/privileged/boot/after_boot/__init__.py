"""Which system was booted, and whether what was carried over is still there."""
