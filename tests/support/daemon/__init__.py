"""The daemon and its helper: started, driven, recorded, and rows of its store."""
