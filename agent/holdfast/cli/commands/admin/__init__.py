"""Commands for who installs and runs the daemon: serve, prepare, helper, config, token, help."""
