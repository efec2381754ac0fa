"""Long work: its model, its durable record, the runner, progress and events.

This package knows no capability and no HTTP. A capability registers its kinds (`kinds.py`), the
daemon makes one `Operations` (`service.py`), and everybody reads `Operation` models (`model.py`).
"""
