"""The HTTP interface: routes, authentication and problems; it knows no kernel."""
