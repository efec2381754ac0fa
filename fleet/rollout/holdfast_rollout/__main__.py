"""`python -m holdfast_rollout`."""

from holdfast_rollout.cli import main

main()
