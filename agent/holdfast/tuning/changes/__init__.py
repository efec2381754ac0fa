"""Changes of settings: made, recorded and reverted, in the process that has the rights."""
