"""The routes: one module for each capability, and those about the daemon itself."""
