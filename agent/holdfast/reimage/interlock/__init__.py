"""What is asked before this machine goes down: window, lock, the operator's command, inhibitors."""
