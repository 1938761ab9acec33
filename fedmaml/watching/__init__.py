"""A run while it goes on: its state, a page that follows it, and numbers for Prometheus.

Everything is read from the run folder, and from the coordinator's where there is one; so a run on
any back end can be watched, and to watch it changes nothing.
"""
