"""The process of the daemon itself: its log, its event loop, its descriptors, its watchdog."""
