"""What has to hold for a while before a new system is confirmed: `reimage.confirm_when`."""
