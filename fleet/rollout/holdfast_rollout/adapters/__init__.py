"""What the steps reach in reality: nodes, commands, HTTP, the clock."""
