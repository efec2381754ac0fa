"""The payload of the imager: kernel, initramfs, job, and the identity that it carries over."""
