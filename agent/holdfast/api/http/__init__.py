"""HTTP below the routes: connections, TLS, callers, bounds, problems and representations."""
