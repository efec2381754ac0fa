"""What all routes share: permission, parameters, and what the OpenAPI document says of them."""
