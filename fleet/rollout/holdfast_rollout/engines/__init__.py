"""Durable engines that run the workflows."""
