"""The lifeboat: what boots after a power cut while a disk is written, in a place that stays."""
