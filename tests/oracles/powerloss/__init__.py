"""The judge of power cuts: replays recorded writes, and finds what firmware would boot.

It knows BIOS and UEFI as firmware does, and nothing of holdfast: no module here imports it.
"""
