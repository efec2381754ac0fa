"""What all routes share: permission, parameters, and their OpenAPI description."""
