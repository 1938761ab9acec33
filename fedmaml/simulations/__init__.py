"""Scenarios, their data, and the back ends that messages travel on."""
