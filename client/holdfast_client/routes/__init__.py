"""Every route of the API, written by generate_routes.py."""
