"""Settings over time: drift, and devices that come and go."""
