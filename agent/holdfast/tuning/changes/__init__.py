"""Changes of settings: made, recorded and taken back, in the process that has the rights."""
